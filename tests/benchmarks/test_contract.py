import io
import json

import numpy as np
import pytest
from peers import contract
from peers.contract import Request
from toy_tool import Toy, mean_logits


@pytest.fixture
def request_of(tmp_path):
    """A request on 12 images for ranges, 4 held out and 10 for the test."""
    rng = np.random.default_rng(0)
    ranges, held_out, test = (rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8) for count in (12, 4, 10))
    np.savez(tmp_path / "images.npz", ranges=ranges, held_out=held_out, logits=mean_logits(held_out))
    np.save(tmp_path / "test.npy", test)
    (tmp_path / "float.onnx").write_text("the float graph")
    (tmp_path / "out").mkdir()

    def make(mode: str) -> Request:
        return Request(
            graph=tmp_path / "float.onnx",
            images=tmp_path / "images.npz",
            test=tmp_path / "test.npy",
            out=tmp_path / "out",
            mode=mode,
            threads=1,
            more={"target": "cpu-x86"},
        )

    return make


def test_the_candidate_nearest_to_the_float_logits_on_held_out_images_is_the_answer(request_of):
    request = request_of("best")
    found = contract.answer(Toy(), request)
    assert (found["chosen"], found["model"], found["error"], found["runtime"]) == ("fine", "fine.json", None, "toy")
    assert found["layers"] == [1, 1]
    errors = {line["name"]: line["held_out"] for line in found["candidates"]}
    with np.load(request.images) as file:
        expected = np.abs(mean_logits(file["held_out"], 0.012) - file["logits"]).mean()
    assert errors["fine"] == pytest.approx(expected, rel=1e-5)
    assert errors["fine"] < errors["coarse"]
    logits = np.load(request.out / "logits.npy")
    np.testing.assert_array_equal(logits, mean_logits(np.load(request.test), 0.012))


def test_a_candidate_that_fails_is_in_the_answer_with_its_reason(request_of):
    reasons = {line["name"]: line["error"] for line in contract.answer(Toy(), request_of("best"))["candidates"]}
    assert reasons["refused"] == "RuntimeError: no kernel for this graph"
    assert reasons["not-finite"] == "ValueError: its logits are not finite"
    assert contract.answer(Toy(), request_of("refused"))["error"] == "RuntimeError: no kernel for this graph"


def test_no_candidate_can_change_the_graph_of_the_others(request_of):
    request = request_of("spoils")
    assert contract.answer(Toy(), request)["error"] is None
    assert request.graph.read_text() == "the float graph"


def test_images_are_held_out_only_where_there_is_a_choice(request_of):
    assert contract.answer(Toy(), request_of("best"))["notes"] == ["12 images"]
    assert contract.answer(Toy(), request_of("defaults"))["notes"] == ["16 images"]


def test_a_request_is_read_as_it_was_written(request_of, tmp_path):
    request_of("best").write(tmp_path / "request.json")
    assert Request.read(tmp_path / "request.json") == request_of("best")


def test_batches_are_of_bounded_memory_and_keep_the_order():
    pixels = np.arange(70 * 32 * 32 * 3).astype(np.uint8).reshape(70, 32, 32, 3)
    parts = list(contract.batches(pixels))
    assert [len(part) for part in parts] == [64, 6]
    np.testing.assert_array_equal(np.concatenate(parts), pixels)
    assert [len(part) for part in contract.batches(np.zeros((2, 300, 300, 3), np.uint8))] == [1, 1]


def test_a_block_shows_one_image_after_the_other_and_at_least_one():
    shown = []
    images = [np.full((1, 2, 2, 3), value, np.uint8) for value in (1, 2)]
    took = contract.block(lambda image: shown.append(int(image[0, 0, 0, 0])), images, seconds=0.005, runs=1)
    assert len(took) == len(shown)
    assert shown == [1 + number % 2 for number in range(len(shown))]
    assert len(contract.block(lambda image: image, images, seconds=0.0, runs=100)) == 1


def test_blocks_are_timed_on_demand(capsys):
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    contract.serve(lambda image: image, pixels, io.StringIO("0.0001 5\n0.0001 1\n"))
    ready, first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert ready == []
    assert first
    assert second
    assert all(nanoseconds >= 0 for nanoseconds in first + second)
