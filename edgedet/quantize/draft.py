"""A float graph on its way to INT8: where Q/DQ goes and which range each tensor takes. Written as often as it is tried out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import onnx

from edgedet.errors import QuantizeError
from edgedet.quantize import qdq
from edgedet.quantize.graph import GraphView, name_nodes
from edgedet.quantize.pixels import pixels_of
from edgedet.quantize.placement import Plan, place
from edgedet.quantize.ranges import Range
from edgedet.quantize.session import cut
from edgedet.target import Scheme


@dataclass(frozen=True)
class Draft:
    """What :func:`edgedet.quantize.qdq.write` needs.

    model: the float graph, its nodes named.
    ranges: of every tensor that any plan of this graph quantizes.
    weight_bits: 7 for x86 CPUs whose kernels would overflow.
    """

    model: onnx.ModelProto
    scheme: Scheme
    plan: Plan
    ranges: Mapping[str, Range]
    weight_bits: int = 8

    @classmethod
    def of(cls, model: onnx.ModelProto, scheme: Scheme, weight_bits: int = 8) -> Draft:
        """Everything that can be quantized is, as far as `scheme` goes; there are no ranges yet. `model` is copied.

        Raises:
            QuantizeError: nothing in the graph can be quantized.
        """
        named = onnx.ModelProto()
        named.CopyFrom(model)
        name_nodes(named)
        plan = place(GraphView(named), scheme)
        if not plan.weights:
            raise QuantizeError("nothing to quantize in this graph: " + ("; ".join(plan.notes()) or "it has no convolution"))
        return cls(named, scheme, plan, {}, weight_bits)

    def ranged(self, found: Mapping[str, Range]) -> Draft:
        """With the ranges `found` for the observed tensors of this plan; what only passes values on takes their maker's.

        Normalised pixels that fit the integers as they are take the range of all pixels instead: it rounds none of them.
        """
        ranges = {name: found[root] for name, root in self.plan.tensors.items()}
        return replace(self, ranges=ranges | self._exact())

    def _exact(self) -> dict[str, Range]:
        """The ranges of signed tensors that are ``gain * (pixel - 128)``."""
        if not self.scheme.symmetric:
            return {}
        view = GraphView(self.model)
        inputs = [pixels_of(view, name) for name in self.plan.tensors]
        return {pixels.tensor: pixels.signed_range for pixels in inputs if pixels is not None and pixels.fits_signed}

    def keeping(self, nodes: Collection[str]) -> Draft:
        """With `nodes` in float. Ranges stay: a smaller plan quantizes no other tensors."""
        return replace(self, plan=place(GraphView(self.model), self.scheme, nodes))

    def only(self, nodes: Collection[str]) -> Draft:
        """With nothing but `nodes` quantized."""
        return self.keeping([name for name in self.plan.weights if name not in nodes])

    def write(self, *tensors: str) -> onnx.ModelProto:
        """The graph with its Q/DQ pairs; only as far as `tensors`, when there are any.

        Raises:
            QuantizeError: a tensor of the plan has no range.
        """
        part = cut(self.model, tensors)
        return qdq.write(part, self.plan, dict(self.ranges), self.scheme, weight_bits=self.weight_bits)
