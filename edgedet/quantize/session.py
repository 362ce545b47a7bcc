"""Running graphs on ONNX Runtime while they are being quantized: any of their tensors, one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgedet.data.parallel import usable_cores
from edgedet.ort import open_session
from edgedet.quantize.graph import remove_dead

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]
Batches = Callable[[], Iterable[Pixels]]
"""Gives the same batches, uint8 (B, H, W, 3), each time it is called."""

Run = Callable[[npt.NDArray[Any]], list[Values]]


def opened(model: onnx.ModelProto, tensors: Sequence[str] = (), *, threads: int | None = None) -> Run:
    """A function from pixels (of an aggregator, features) to the values of `tensors`, of the outputs when none are named.

    Only what `tensors` need is run. ``threads`` is all usable cores unless it is given.
    """
    session = open_session(cut(model, tensors).SerializeToString(), threads=threads or usable_cores())
    source = session.get_inputs()[0].name
    wanted = list(tensors) or [output.name for output in session.get_outputs()]

    def run(given: npt.NDArray[Any]) -> list[Values]:
        values: list[Values] = session.run(wanted, {source: given})
        return values

    return run


def cut(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """`model` with `tensors` as its outputs and without the nodes that they do not need; itself when none are named."""
    if not tensors:
        return model
    part = onnx.ModelProto()
    part.CopyFrom(model)
    known = {value.name: value for value in model.graph.output}
    del part.graph.output[:]
    part.graph.output.extend(known.get(name) or helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(tensors))
    remove_dead(part.graph)
    return part
