"""Latency of several models in one run, taking turns, also with models that live in another process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
from peers.contract import Pixels, block, images_of

from comparison.methods import surroundings
from edgedet.bench import statistics
from edgedet.bench.statistics import Samples
from edgedet.runtime.onnxruntime import OnnxRuntime
from edgedet.runtime.openvino import OpenVino

ROUNDS = 20
SECONDS_A_BLOCK = 0.25
RUNS_A_BLOCK = 20
SETTLE_SECONDS = 0.03
"""At the start of each block, not counted: caches fill, and the threads of the one before come to rest."""


class Contestant(Protocol):
    def block(self, seconds: float, runs: int) -> list[int]:
        """Nanoseconds of each call, batch 1."""
        ...


class Here:
    """A graph on a runtime in this process."""

    def __init__(self, runtime: OnnxRuntime | OpenVino, pixels: Pixels) -> None:
        self._runtime, self._images = runtime, images_of(pixels)

    def block(self, seconds: float, runs: int) -> list[int]:
        return block(self._runtime.run, self._images, seconds, runs)


class There:
    """A model in a process of its tool's environment, which is killed when it lives longer than `minutes`."""

    def __init__(self, command: list[str], minutes: float) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=surroundings()
        )
        self._alarm = threading.Timer(60 * minutes, self._process.kill)
        self._alarm.start()
        self._answer()

    def block(self, seconds: float, runs: int) -> list[int]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds} {runs}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> list[int]:
        """The next line that is an answer; a tool may print before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                found: list[int] = json.loads(line)
                return found
        raise RuntimeError("the process that was timed has ended")

    def close(self) -> None:
        self._alarm.cancel()
        self._process.kill()
        self._process.communicate()


def take_turns(contestants: Mapping[str, Contestant], rounds: int = ROUNDS) -> dict[str, Samples]:
    """`rounds` blocks of each, in an order that rotates; the first block of each warms it up and is not counted."""
    names = list(contestants)
    blocks: dict[str, list[list[int]]] = {name: [] for name in names}
    for name in names:
        contestants[name].block(SECONDS_A_BLOCK, RUNS_A_BLOCK)
    for number in range(rounds):
        for name in _order(names, number):
            contestants[name].block(SETTLE_SECONDS, 1)
            blocks[name].append(contestants[name].block(SECONDS_A_BLOCK, RUNS_A_BLOCK))
    return {name: _samples(of) for name, of in blocks.items()}


def latencies(samples: Mapping[str, Samples], baseline: str) -> dict[str, dict[str, object]]:
    """p50 in milliseconds, and how many times faster `baseline` is, with the 95 % interval over the rounds."""
    found: dict[str, dict[str, object]] = {}
    for name, of in samples.items():
        ratio = statistics.ratio(of, samples[baseline], name=name)
        found[name] = {
            "p50_ms": statistics.latency(of).p50_ms,
            "times_slower": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
        }
    return found


def _order(names: list[str], number: int) -> Iterator[str]:
    shift = number % len(names)
    rotated = names[shift:] + names[:shift]
    return iter(rotated[::-1] if (number // len(names)) % 2 else rotated)


def _samples(blocks: list[list[int]]) -> Samples:
    rounds = np.repeat(np.arange(len(blocks)), [len(of) for of in blocks])
    return Samples(np.concatenate([np.array(of, np.int64) for of in blocks]), rounds)
