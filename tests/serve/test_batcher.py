"""Requests share calls, get their own answers, and are refused when too many wait."""

import threading
import time

import numpy as np
import pytest

from edgedet.errors import RuntimeUnavailable
from edgedet.serve.batcher import Batcher, Overloaded


def image(value: int, side: int = 2) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


class Means:
    """A model whose logit is the mean; holds until `gate` opens, and keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.gate, self.sizes = threading.Event(), []
        self.gate.set()

    def __call__(self, pixels):
        self.gate.wait(10)
        self.sizes.append(len(pixels))
        if (pixels == 255).any():
            raise ValueError("a white pixel")
        return {"logit": pixels.mean((1, 2, 3)).astype(np.float32)}


def test_everyone_gets_their_own_answer():
    batcher = Batcher(Means(), most=4)
    answers = [batcher.submit(image(value)) for value in range(50)]
    assert [float(answer.result(10)["logit"]) for answer in answers] == list(range(50))
    batcher.close()


def test_what_arrives_together_shares_a_call():
    model = Means()
    model.gate.clear()
    batcher = Batcher(model, most=8, wait_ms=0)
    answers = [batcher.submit(image(0))]
    time.sleep(0.05)  # the first is under way, alone; the others queue up behind it
    answers += [batcher.submit(image(value)) for value in range(1, 17)]
    model.gate.set()
    for answer in answers:
        answer.result(10)
    assert model.sizes == [1, 8, 8]
    assert batcher.batches == 3
    batcher.close()


def test_images_of_another_size_are_another_batch():
    model = Means()
    batcher = Batcher(model, wait_ms=20)
    answers = [batcher.submit(image(value, side)) for value, side in ((1, 2), (2, 2), (3, 4), (4, 2))]
    assert [float(answer.result(10)["logit"]) for answer in answers] == [1, 2, 3, 4]
    assert model.sizes[-2:] == [1, 1]
    batcher.close()


def test_an_error_is_the_answer_of_its_batch_and_no_more():
    batcher = Batcher(Means(), wait_ms=0, most=1)
    bad, good = batcher.submit(image(255)), batcher.submit(image(7))
    with pytest.raises(ValueError, match="a white pixel"):
        bad.result(10)
    assert float(good.result(10)["logit"]) == 7
    batcher.close()


def test_more_than_the_queue_holds_are_refused_and_none_is_lost():
    model = Means()
    model.gate.clear()
    batcher = Batcher(model, most=1, queued=3, wait_ms=0)
    taken = [batcher.submit(image(0))]
    time.sleep(0.05)
    taken += [batcher.submit(image(value)) for value in (1, 2, 3)]
    with pytest.raises(Overloaded, match="3 images wait already"):
        batcher.submit(image(4))
    assert batcher.waiting == 3
    model.gate.set()
    assert [float(answer.result(10)["logit"]) for answer in taken] == [0, 1, 2, 3]
    batcher.close()


def test_closing_answers_what_is_queued_and_takes_no_more():
    batcher = Batcher(Means(), most=2)
    answers = [batcher.submit(image(value)) for value in range(9)]
    batcher.close()
    assert [float(answer.result(0)["logit"]) for answer in answers] == list(range(9))
    with pytest.raises(Overloaded, match="shutting down"):
        batcher.submit(image(1))


def test_what_comes_while_it_closes_is_answered_all_the_same():
    batcher = Batcher(Means(), wait_ms=0)
    closing, put = threading.Thread(target=batcher.close), batcher._jobs.put_nowait

    def late(job):
        closing.start()
        closing.join(0.2)
        put(job)

    batcher._jobs.put_nowait = late
    answer = batcher.submit(image(3))
    closing.join(10)
    assert float(answer.result(1)["logit"]) == 3


def test_sizes_below_one_are_refused():
    with pytest.raises(RuntimeUnavailable, match="most >= 1"):
        Batcher(Means(), most=0)
