"""Outputs besides the logit: heat-maps and numbers that a graph gives, proven like the logit and compared in every precision.

In full precision each must be the network's own. In INT8 and FP16 it is for looking at: how like it is to the one in full
precision is measured on the golden inputs and stands in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgedet.artifact import Artifact, Figures
from edgedet.errors import ParityError
from edgedet.preprocess import Pixels
from edgedet.quantize.session import Values, opened
from edgedet.runtime.base import LOGIT

if TYPE_CHECKING:
    from edgedet.models.pixels import PixelModel

LIMIT = 1e-3
"""In FP32, relative to the largest value: sums over many channels may nearly cancel."""

Maps = Mapping[str, Values]
"""By name, (N, ...) each."""


def further(model: onnx.ModelProto, pixels: Pixels) -> Maps:
    """What `model` gives on uint8 (N, H, W, 3) besides the logit."""
    names = [output.name for output in model.graph.output if output.name != LOGIT]
    return dict(zip(names, opened(model, names)(pixels), strict=True)) if names else {}


def export(model: PixelModel, artifact: Artifact, pixels: Pixels, opset: int) -> tuple[onnx.ModelProto, Maps]:
    """The graph of `model`, the network of `artifact`, with everything that it gives, and what that is on the golden `pixels`.

    Raises:
        ModelError: the network gives its logit alone.
        ExportError: it cannot be captured. ParityError: an output of the graph is not the network's.
    """
    import torch

    from edgedet.export.onnx import export_onnx
    from edgedet.models.maps import with_maps

    manifest = artifact.manifest
    module = with_maps(model, manifest.detector.name)
    with torch.inference_mode():
        _, *tensors = module(torch.from_numpy(pixels))
    graph = export_onnx(
        module,
        manifest.preprocess,
        opset=opset,
        parent=artifact.digest,
        labels=manifest.labels,
        outputs=(LOGIT, *module.names),
    )
    found = further(graph, pixels)
    hold(found, {name: each.float().numpy() for name, each in zip(module.names, tensors, strict=True)}, str(artifact.path))
    return graph, found


def likeness(found: Maps, expected: Maps) -> Figures:
    """By name, the largest difference over the largest value that is expected, and Pearson's r, None where one is constant."""
    return {name: _likeness(found[name], values) for name, values in expected.items()}


def hold(found: Maps, expected: Maps, what: str) -> None:
    """Refuse outputs in full precision that are not those expected; `what` names the child.

    Raises:
        ParityError: one differs by more than rounding.
    """
    for name, figures in likeness(found, expected).items():
        difference = figures["max_relative"]
        if not difference <= LIMIT:
            raise ParityError(f"{what}: output `{name}` is off by {difference:.3g} of its largest value, allowed {LIMIT:g}")


def _likeness(found: Values, expected: Values) -> Figures:
    first, second = (values.astype(np.float64).reshape(-1) for values in (found, expected))
    varies = min(first.std(), second.std()) > 0
    return {
        "max_relative": float(np.abs(first - second).max()) / (float(np.abs(second).max()) or 1.0),
        "correlation": float(np.corrcoef(first, second)[0, 1]) if varies else None,
    }
