import tracemalloc
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgedet.errors import QuantizeError
from edgedet.quantize import session
from edgedet.quantize.ranges import BINS, observe, observe_channels

Pixels = npt.NDArray[np.uint8]


def in_batches(pixels: Pixels, size: int) -> Callable[[], Iterator[Pixels]]:
    return lambda: (pixels[start : start + size] for start in range(0, len(pixels), size))


def test_streaming_equals_everything_in_memory(residual_net: onnx.ModelProto, pixels: Pixels, run) -> None:
    found = observe(residual_net, ["stem", "sum"], in_batches(pixels, 3))
    for name in ("stem", "sum"):
        values = run(residual_net, pixels, name)
        histogram = found[name]
        expected, edges = np.histogram(values, bins=BINS, range=(min(values.min(), 0), values.max()))
        assert histogram.low == pytest.approx(edges[0], rel=1e-5)
        assert histogram.high == pytest.approx(edges[-1], rel=1e-5)
        assert histogram.counts.sum() == values.size
        # float32 positions may put a value that lies on an edge into the neighbouring bin.
        assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 3


def test_the_order_of_batches_does_not_matter(residual_net: onnx.ModelProto, pixels: Pixels) -> None:
    forward = observe(residual_net, ["block"], in_batches(pixels, 4))["block"]
    backward = observe(residual_net, ["block"], in_batches(pixels[::-1].copy(), 4))["block"]
    assert (forward.low, forward.high) == (backward.low, backward.high)
    assert np.array_equal(forward.counts, backward.counts)


def test_channels_are_observed_as_if_each_were_a_tensor(residual_net: onnx.ModelProto, pixels: Pixels, run) -> None:
    found = observe_channels(residual_net, ["block", "pooled"], in_batches(pixels, 5))
    maps, vectors = run(residual_net, pixels, "block"), run(residual_net, pixels, "pooled")  # (16, 32, 8, 8), (16, 32)
    assert len(found["block"]) == len(found["pooled"]) == 32
    for channel, histogram in enumerate(found["block"]):
        values = maps[:, channel]
        expected, _ = np.histogram(values, bins=BINS, range=(min(values.min(), 0), values.max()))
        assert histogram.high == pytest.approx(values.max(), rel=1e-5)
        assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 3
    assert [histogram.high for histogram in found["pooled"]] == pytest.approx(list(vectors.max(axis=0)), rel=1e-5)


class Alive:
    """Arrays that somebody holds: how many now, and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def watch(self, array: npt.NDArray[np.generic]) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(array, self._gone)

    def _gone(self) -> None:
        self.now -= 1


def copies(pixels: Pixels, times: int, alive: Alive) -> Callable[[], Iterator[Pixels]]:
    """The same batch again and again, each time an array of its own."""

    def batches() -> Iterator[Pixels]:
        for _ in range(times):
            batch = pixels.copy()
            alive.watch(batch)
            yield batch
            del batch

    return batches


@pytest.mark.parametrize("look", [observe, observe_channels])
def test_neither_batches_nor_activations_are_kept(
    look: Callable[..., object], residual_net: onnx.ModelProto, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, activations = Alive(), Alive()

    def opened(model: onnx.ModelProto, tensors: list[str]) -> session.Run:
        run = session.opened(model, tensors)

        def watched(pixels: Pixels) -> list[session.Values]:
            values = run(pixels)
            for array in values:
                activations.watch(array)
            return values

        return watched

    # The real session; its arrays are ONNX Runtime's memory, which tracemalloc does not see.
    monkeypatch.setattr("edgedet.quantize.ranges.histogram.opened", opened)
    look(residual_net, ["stem", "block", "sum"], copies(pixels, 40, batches))
    # The batch that is being looked at, and the next one while it is made; of its activations, the last one meanwhile.
    assert batches.most <= 2
    assert activations.most <= 3 + 1
    assert batches.now == activations.now == 0


@pytest.mark.parametrize("look", [observe, observe_channels])
def test_the_peak_does_not_grow_with_the_images(
    look: Callable[..., object], residual_net: onnx.ModelProto, pixels: Pixels
) -> None:
    def peak(times: int) -> int:
        tracemalloc.start()
        look(residual_net, ["stem", "block"], copies(pixels, times, Alive()))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)  # what is imported and cached on first use
    few, many = peak(1), peak(10)  # 16 and 160 images
    # One more batch of pixels, by chance of when the last is let go, is 12 kB; working arrays of ten would be megabytes.
    assert many <= few + 2 * pixels.nbytes


def test_a_tensor_that_is_not_finite_is_named(make_net, pixels: Pixels) -> None:
    net = make_net()
    # log(x) of pixels from -1 to 1: NaN in some batches, finite in others.
    model = net.finish(net.op("Log", net.op("Add", "x", net.constant(np.float32(0.9)), name="shifted"), name="log"), 3)
    bright, dark = np.full((1, 16, 16, 3), 200, np.uint8), np.zeros((1, 16, 16, 3), np.uint8)
    for batches in ([bright, dark], [dark, bright]):
        with pytest.raises(QuantizeError, match="tensor 'log' has no finite range"):
            observe(model, ["log"], lambda batches=batches: batches)
