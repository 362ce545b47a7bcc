"""A network that reads patches as two graphs, each held against the part that it stems from (needs torch)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgedet.artifact import Artifact, Figures
from edgedet.data.parallel import usable_cores
from edgedet.errors import ParityError
from edgedet.export.graphs import Graphs
from edgedet.export.onnx import export_patchwise
from edgedet.export.parity import BATCH_SIZES
from edgedet.models.patchwise import AggregatorToLogit, EncoderOnPixels, patchwise
from edgedet.models.pixels import PixelModel
from edgedet.patches import cut
from edgedet.preprocess import Pixels, Preprocess
from edgedet.runtime.base import Options
from edgedet.runtime.onnxruntime import PatchRuntime

LIMIT = 1e-4
"""Of the largest feature, or logit, and of 1 at least: FP32 differs by rounding only."""

Values = npt.NDArray[np.float32]


def whole_images(preprocess: Preprocess, side: int) -> Preprocess:
    """`preprocess`, by which a network of patches of `side` pixels was trained, for images of any size as they are."""
    return msgspec.structs.replace(
        preprocess, geometry="native", resize=None, multiple=1, height=side, width=side, patch=side, fill="pad"
    )


def export(model: PixelModel, parent: Artifact, pixels: Pixels, opset: int) -> tuple[Graphs, Preprocess, Figures]:
    """The two graphs of `parent`'s network, the preprocessing for both together, and how far each is from its part.

    pixels: uint8 (N, H, W, 3), whose patches they are compared on.

    Raises:
        ModelError: the network reads whole images.
        ExportError: a part cannot be captured, or its graph is not what was asked for.
        ParityError: a graph is further from its part than :data:`LIMIT`.
    """
    side, manifest = patchwise(model).side, parent.manifest
    preprocess = whole_images(manifest.preprocess, side)
    graphs = Graphs(*export_patchwise(model, preprocess, opset=opset, parent=parent.digest, labels=manifest.labels))
    with tempfile.TemporaryDirectory() as folder:
        runtime = graphs.opened(Path(folder), Options(threads=usable_cores(), spin=False))
        assert isinstance(runtime, PatchRuntime)
        try:
            return graphs, preprocess, _compared(model, runtime, [cut(image, side) for image in pixels])
        finally:
            runtime.close()


@torch.inference_mode()
def _compared(model: PixelModel, runtime: PatchRuntime, patches: list[Pixels]) -> Figures:
    encoder, aggregator = EncoderOnPixels(model.net, model.preprocess).eval(), AggregatorToLogit(model).eval()
    features = [encoder(torch.from_numpy(of_one)).numpy() for of_one in patches]
    logits = np.concatenate([aggregator(torch.from_numpy(of_one)[None]).numpy() for of_one in features])
    every = np.concatenate(patches)
    found = [_in_batches(runtime.encode, every, size) for size in BATCH_SIZES]
    again = np.concatenate([runtime.aggregate(of_one) for of_one in features])
    return {
        "encoder": {**_held("encoder", found, np.concatenate(features)), "patches": len(every), "batch_sizes": [*BATCH_SIZES]},
        "aggregator": {**_held("aggregator", [again], logits), "patches": sorted({len(of_one) for of_one in features})},
    }


def _in_batches(run: Callable[[Pixels], Values], patches: Pixels, size: int) -> Values:
    return np.concatenate([run(patches[start : start + size]) for start in range(0, len(patches), size)])


def _held(name: str, found: list[Values], expected: Values) -> Figures:
    scale = max(1.0, float(np.abs(expected).max()))
    difference = max(float(np.abs(values - expected).max()) for values in found)
    if not difference <= LIMIT * scale:
        raise ParityError(
            f"the graph of the {name} is {difference:.3g} from the network's at scale {scale:.3g}, more than {LIMIT:g} of it: "
            "FP32 should differ by rounding only, so the exporter has changed the network"
        )
    return {"max_difference": difference, "scale": scale, "max_relative": difference / scale}
