"""The maps of a checkpoint: those of its forward pass, and those that need its modules or gradients (needs torch)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from edgedet import models
from edgedet.artifact import Artifact
from edgedet.data.parallel import usable_cores
from edgedet.errors import ExplainError
from edgedet.explain.gradcam import default_layer, gradcam
from edgedet.explain.heat import METHODS, Method, split
from edgedet.explain.rollout import has_rollout, rollout
from edgedet.models.maps import Maps
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Pixels
from edgedet.runtime.base import LOGIT, Outputs

Computed = tuple[Tensor, Tensor]
"""Logits (B,) and map (B, h, w)."""


class CheckpointExplainer:
    """A rebuilt network in evaluation mode, on the CPU. layer: the module that Grad-CAM looks at, None for the best known."""

    def __init__(self, artifact: Artifact, *, layer: str | None = None, threads: int | None = None) -> None:
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads or usable_cores())
        self._model = models.build(artifact).eval().requires_grad_(False)
        line = models.lookup(artifact.manifest.detector.name)
        self._maps = Maps(self._model, line)
        forward, self._numbers = split(self._forward(np.zeros((1, *_size(self._model), 3), np.uint8)))
        self._layer = layer or default_layer(self._model, line.features)
        self._asked = layer is not None
        has = {
            **dict.fromkeys(forward, True),
            "rollout": has_rollout(self._model.net),
            "gradcam": self._layer is not None,
            "residual": hasattr(self._model.net, "front_end"),
        }
        self._found = tuple(name for name in METHODS if has.get(name))

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those of this network; Grad-CAM alone when a layer was asked for."""
        return ("gradcam",) if self._asked else self._found

    def run(self, pixels_u8_nhwc: Pixels, method: Method) -> Outputs:
        """``logit`` (B,), the map (B, h, w) and the numbers (B,)."""
        outputs = self._forward(pixels_u8_nhwc)
        if method in outputs:
            return {name: outputs[name] for name in (LOGIT, method, *self._numbers)}
        pixels = torch.tensor(pixels_u8_nhwc)
        ways: dict[Method, Callable[[], Computed]] = {
            "gradcam": lambda: gradcam(self._model, pixels, self._layer or ""),
            "rollout": lambda: rollout(self._model, pixels),
            "residual": lambda: residual(self._model, pixels),
        }
        _, found = ways[method]()
        return {LOGIT: outputs[LOGIT], method: found.float().numpy(), **{name: outputs[name] for name in self._numbers}}

    def close(self) -> None:
        """Give back the threads."""
        torch.set_num_threads(self._threads_before)

    def _forward(self, pixels_u8_nhwc: Pixels) -> Outputs:
        with torch.inference_mode():
            values = self._maps(torch.tensor(pixels_u8_nhwc))
        names = (LOGIT, *self._maps.names)
        return {name: value.float().numpy() for name, value in zip(names, values, strict=True)}


def residual(model: PixelModel, pixels: Tensor) -> Computed:
    """The logits (B,), and the mean magnitude over colours of what the front-end leaves of the pixels, (B, H, W), in levels.

    Raises:
        ExplainError: the network has no front-end.
    """
    front_end = getattr(model.net, "front_end", None)
    if front_end is None:
        raise ExplainError("the network has no residual front-end")
    with torch.inference_mode():
        left: Tensor = front_end(pixels.float().permute(0, 3, 1, 2))
        return model(pixels), left.abs().mean(1)


def _size(model: PixelModel) -> tuple[int, int]:
    return model.preprocess.height, model.preprocess.width
