"""What a mix of precisions costs in time: estimated from its multiplications, and measured where the target is this machine."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx

from edgedet.artifact import Figures
from edgedet.quantize.graph import GraphView
from edgedet.quantize.session import Batches, Pixels, opened

INT8_SPEED = 4.0
"""An INT8 multiplication takes a quarter of a float one's time: the ratio of VNNI to FMA, and of 32-bit to 8-bit data."""

HOW = (
    "estimated_time: estimated share of the all-float graph's time, from multiplications, INT8 four times as fast; "
    "measured_ms: processor time measured here on ONNX Runtime, one image, one thread, in turns with the other rows"
)
_ROUNDS, _RUNS, _WARM_UP = 5, 8, 3
_FEW_ROUNDS, _FEW_RUNS = 3, 3


def multiplications(model: onnx.ModelProto, layers: Collection[str], batches: Batches) -> dict[str, int]:
    """The multiply-adds of each of `layers` for one image, from the shapes that the first image gives."""
    view = GraphView(model)
    nodes = [view.by_name[name] for name in layers]
    first = next(iter(batches()))[:1]
    outputs = opened(model, [node.output[0] for node in nodes])(first)
    found = {}
    for node, output in zip(nodes, outputs, strict=True):
        weight = view.constant(node.input[1])
        assert weight is not None  # placement takes constant weights only
        channels = output.shape[1 if node.op_type == "Conv" else -1]
        found[node.name] = output.size * weight.size // channels
    return found


def estimated_share(costs: Mapping[str, int], floats: Collection[str]) -> float:
    """The time of a mix as a share of the all-float graph's: `floats` in float, the other layers of `costs` in INT8.

    An estimate from multiplications alone; moving data, conversions and everything that is no layer are not in it.
    """
    time_of = {name: cost if name in floats else cost / INT8_SPEED for name, cost in costs.items()}
    return sum(time_of.values()) / sum(costs.values())


def gain(model: onnx.ModelProto, quantized: onnx.ModelProto, pixels: Pixels) -> tuple[Figures, str]:
    """What INT8 gains on this machine for one image, uint8 (1, H, W, 3), as figures and as a sentence: it may gain nothing."""
    before, after = interleaved_ms([model, quantized], pixels, rounds=_FEW_ROUNDS, runs=_FEW_RUNS)
    times = f"{before:.3g} ms in FP32, {after:.3g} ms in INT8, processor time of one image on one thread"
    said = f"INT8 is {before / after:.2g} times as fast here: {times}"
    if after >= before:
        said = f"INT8 is no faster here: {times}; deploy the FP32 graph unless the size of the file is what matters"
    return {"fp32_ms": before, "int8_ms": after}, said


def interleaved_ms(
    models: Sequence[onnx.ModelProto], pixels: Pixels, *, rounds: int = _ROUNDS, runs: int = _RUNS
) -> list[float]:
    """The median processor time of each of `models` on `pixels`, uint8 (1, H, W, 3), in milliseconds, on one thread.

    What the thread waits for while others compute is not in it. In turns, so that a disturbance meets all of them alike: read
    the ratios.
    """
    sessions = [opened(model, [model.graph.output[0].name], threads=1) for model in models]
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for run, taken in zip(sessions, seconds, strict=True):
            for position in range(_WARM_UP + runs):
                start = time.thread_time()  # a session of one thread computes in the one that calls it
                run(pixels)
                if position >= _WARM_UP:
                    taken.append(time.thread_time() - start)
    return [float(np.median(taken)) * 1000 for taken in seconds]
