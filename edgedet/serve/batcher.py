"""Requests that arrive together share one call of the model: a queue, and the one thread that owns the detector."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from edgedet.errors import EdgedetError, RuntimeUnavailable
from edgedet.preprocess import Pixels
from edgedet.runtime.base import Outputs


class Overloaded(EdgedetError):
    """More requests wait than the queue holds: the caller should come back later."""


@dataclass(frozen=True)
class _Job:
    pixels: Pixels
    answer: Future[Outputs]


class Batcher:
    """Runs `run` on batches of what is submitted, in the order of arrival.

    The first of a batch waits up to `wait_ms` for others; a batch that is full does not wait.

    run: uint8 (B, H, W, 3) -> outputs, each (B, ...); only ever called by the one thread.
    most: images of a batch. queued: images that may wait; one more is refused.
    """

    def __init__(self, run: Callable[[Pixels], Outputs], *, most: int = 16, wait_ms: float = 2.0, queued: int = 256) -> None:
        if most < 1 or queued < 1 or wait_ms < 0:
            came = f"{most}, {queued}, {wait_ms}"
            raise RuntimeUnavailable(f"a batcher needs most >= 1, queued >= 1 and wait_ms >= 0, got {came}")
        self._run, self._most, self._wait = run, most, wait_ms / 1000
        self._jobs: queue.Queue[_Job | None] = queue.Queue(queued)
        self._closing = False
        self._entry = threading.Lock()  # nothing is queued behind the end
        self.batches = 0
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue, about."""
        return self._jobs.qsize()

    def submit(self, pixels: Pixels) -> Future[Outputs]:
        """The outputs of one image, uint8 (H, W, 3), when they are there: each of its own, without the batch's axis.

        Raises:
            Overloaded: the queue is full, or the batcher is closing.
        """
        job = _Job(pixels, Future())
        with self._entry:
            if self._closing:
                raise Overloaded("the service is shutting down")
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                raise Overloaded(f"{self._jobs.maxsize} images wait already: try again later") from None
        return job.answer

    def close(self) -> None:
        """Answer what is queued, then end the thread."""
        with self._entry:
            self._closing = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        left: _Job | None = None
        while True:
            first = left or self._jobs.get()
            if first is None:
                return
            batch, left, last = self._gather(first)
            self._answer(batch)
            if last:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], _Job | None, bool]:
        """A batch of images of one size; the first that is of another; whether the end has come."""
        batch, deadline = [first], time.monotonic() + self._wait
        while len(batch) < self._most:
            try:
                job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return batch, None, True
            if job.pixels.shape != first.pixels.shape:
                return batch, job, False
            batch.append(job)
        return batch, None, False

    def _answer(self, batch: list[_Job]) -> None:
        wanted = [job for job in batch if job.answer.set_running_or_notify_cancel()]
        if not wanted:
            return
        self.batches += 1
        try:
            outputs = self._run(np.stack([job.pixels for job in wanted]))
        except Exception as error:  # whatever the runtime raises is the answer of this batch, not the end of the service
            for job in wanted:
                job.answer.set_exception(error)
            return
        for place, job in enumerate(wanted):
            job.answer.set_result({name: values[place] for name, values in outputs.items()})
