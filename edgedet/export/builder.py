"""Driving TensorRT's builder, for TensorRT on a device and for TensorRT-RTX ahead of time: the module is passed in.

Only what both have, by the names of TensorRT 10.3 to 11; what differs is a flag in `edgedet.target.build_flags`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEMORY = ("Total Weights Memory", "Total Activation Memory", "Max Scratch Memory")
"""How the lines begin in which the builder states the device's memory."""


class Refused(Exception):
    """The parser or the builder does not take the graph.

    text: its words; node, operator: of the ONNX graph, where it names them.
    """

    def __init__(self, text: str, node: str = "", operator: str = "") -> None:
        super().__init__(text)
        self.text, self.node, self.operator = text, node, operator

    @property
    def plain(self) -> dict[str, str]:
        """As plain data, for a parent process."""
        return {"text": self.text, "node": self.node, "operator": self.operator}


@dataclass(frozen=True)
class Profile:
    """Which shapes an engine takes: the least, the usual and the largest batch, and the sides that the graph leaves open."""

    batches: tuple[int, int, int]
    size: tuple[int, int]

    def shapes(self, declared: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The least, the usual and the largest shape of an input, -1 where it is open.

        The first axis is the batch, or else the first open one: (-1, height, width, 3) are images or patches, (1, -1, features)
        are those of as many patches.
        """
        free = 0 if declared[0] < 0 else next((axis for axis, side in enumerate(declared) if side < 0), 0)
        fixed = (0, *self.size, 3)
        sides = [side if side > 0 else fixed[min(axis, 3)] for axis, side in enumerate(declared)]
        return tuple((*sides[:free], batch, *sides[free + 1 :]) for batch in self.batches)


def parse(trt: Any, builder: Any, logger: Any, path: str, flags: Sequence[str] = ()) -> tuple[Any, Any]:
    """The network of the ONNX file at `path`, and the parser that must live as long.

    flags: names of ``NetworkDefinitionCreationFlag``.

    Raises:
        Refused: with the parser's first error.
    """
    bits = 0
    for flag in flags:
        bits |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, flag))
    network = builder.create_network(bits)
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(path):
        return network, parser
    if not parser.num_errors:
        raise Refused("the file cannot be parsed as ONNX")
    error = parser.get_error(0)
    raise Refused(error.desc(), error.node_name(), error.node_operator())


def holds_half(trt: Any, network: Any) -> bool:
    """Whether half precision is written into the graph of `network`."""
    layers = (network.get_layer(number) for number in range(network.num_layers))
    outputs = (layer.get_output(number) for layer in layers for number in range(layer.num_outputs))
    return any(tensor is not None and tensor.dtype == trt.DataType.HALF for tensor in outputs)


def configure(trt: Any, builder: Any, network: Any, profile: Profile, flags: Mapping[str, bool], workspace: int = 0) -> Any:
    """A builder configuration with one profile.

    flags: names of ``BuilderFlag`` to set (true) or clear (false). workspace: a limit in bytes on scratch memory; 0 leaves it.
    """
    config = builder.create_builder_config()
    for flag, wanted in flags.items():
        (config.set_flag if wanted else config.clear_flag)(getattr(trt.BuilderFlag, flag))
    if workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    shapes = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shapes.set_shape(tensor.name, *profile.shapes(tuple(tensor.shape)))
    config.add_optimization_profile(shapes)
    return config


def serialize(builder: Any, network: Any, config: Any, logger: Any) -> bytes:
    """Build the engine; its bytes.

    Raises:
        Refused: with what the builder logged.
    """
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise Refused(" ".join(logger.errors))
    return bytes(engine)


def stated(lines: Sequence[str]) -> tuple[int, ...]:
    """The device's memory for weights, activations and scratch, in bytes, as the builder's log states it; else 0."""
    log = "\n".join(lines)
    found = (re.findall(rf"{what}: (\d+) bytes", log) for what in MEMORY)
    return tuple(int(figures[-1]) if figures else 0 for figures in found)
