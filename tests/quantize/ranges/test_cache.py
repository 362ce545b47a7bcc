from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgedet.errors import DataError
from edgedet.quantize.ranges import Histogram, observe
from edgedet.quantize.ranges.cache import observe_once

TENSORS = ["stem", "block"]


class Counted:
    """Batches, and how often they were asked for."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels, self.passes = pixels, 0

    def __call__(self) -> list[npt.NDArray[np.uint8]]:
        self.passes += 1
        return [self.pixels]


@pytest.fixture
def batches(pixels: npt.NDArray[np.uint8]) -> Counted:
    return Counted(pixels)


def assert_same(one: dict[str, Histogram], other: dict[str, Histogram]) -> None:
    assert list(one) == list(other)
    for name, histogram in one.items():
        assert (histogram.low, histogram.high) == (other[name].low, other[name].high)
        assert np.array_equal(histogram.counts, other[name].counts)


def test_the_second_time_no_image_is_looked_at(residual_net: onnx.ModelProto, batches: Counted, tmp_path: Path) -> None:
    first = observe_once(residual_net, TENSORS, batches, "data", tmp_path)
    assert batches.passes == 2
    again = observe_once(residual_net, TENSORS, batches, "data", tmp_path)
    assert batches.passes == 2
    assert_same(first, again)
    assert_same(first, observe(residual_net, TENSORS, batches))


def test_other_images_another_graph_and_other_tensors_are_looked_at_again(
    residual_net: onnx.ModelProto, batches: Counted, tmp_path: Path
) -> None:
    observe_once(residual_net, TENSORS, batches, "data", tmp_path)
    weight = residual_net.graph.initializer[4]
    values = onnx.numpy_helper.to_array(weight).copy()
    changed = onnx.ModelProto()
    changed.CopyFrom(residual_net)
    changed.graph.initializer[4].CopyFrom(onnx.numpy_helper.from_array(np.nextafter(values, np.float32(9)), weight.name))
    observe_once(residual_net, TENSORS, batches, "other data", tmp_path)
    observe_once(changed, TENSORS, batches, "data", tmp_path)
    observe_once(residual_net, TENSORS[:1], batches, "data", tmp_path)
    assert batches.passes == 8
    assert len(list(tmp_path.glob("ranges/*.npz"))) == 4


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, tensors=np.array(TENSORS), low=np.zeros(2), high=np.ones(2), counts=np.zeros((2, 3), np.int64))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, swap])
def test_a_damaged_file_is_made_again(damage, residual_net: onnx.ModelProto, batches: Counted, tmp_path: Path) -> None:
    first = observe_once(residual_net, TENSORS, batches, "data", tmp_path)
    (path,) = tmp_path.glob("ranges/*.npz")
    damage(path)
    assert_same(first, observe_once(residual_net, TENSORS, batches, "data", tmp_path))
    assert batches.passes == 4
    observe_once(residual_net, TENSORS, batches, "data", tmp_path)
    assert batches.passes == 4
    assert list(tmp_path.glob("ranges/*")) == [path]


def test_a_cache_that_cannot_be_written_is_an_error(residual_net: onnx.ModelProto, batches: Counted, tmp_path: Path) -> None:
    (tmp_path / "ranges").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written: .*EDGEDET_CACHE"):
        observe_once(residual_net, TENSORS, batches, "data", tmp_path)
