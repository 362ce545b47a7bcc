"""What a heat-map is here, which kinds there are, and who makes them.

========= ====== ================================================================================================
method    signed where from
========= ====== ================================================================================================
patches   yes    the logits of patches, of detectors that judge patches
cam       yes    the channels of the last map weighted by the classifier; from graphs exported with ``--maps``, too
attention no     where the network's own attention lies: its attention output, or its gates
rollout   no     attention multiplied through the blocks of a ViT (needs the checkpoint)
gradcam   yes    the channels of any module weighted by gradients (needs the checkpoint)
residual  no     what the residual front-end leaves of the pixels (needs the checkpoint)
========= ====== ================================================================================================

Signed maps are above 0 where something speaks for fake and below where it speaks for real; the others are at least 0.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np

from edgedet.artifact import Artifact
from edgedet.errors import ExplainError, nearest
from edgedet.preprocess import Pixels
from edgedet.runtime.base import LOGIT, Outputs

Method = Literal["patches", "cam", "attention", "rollout", "gradcam", "residual"]
METHODS: tuple[Method, ...] = get_args(Method)
"""In the order in which ``auto`` takes them."""

SIGNED = frozenset({"patches", "cam", "gradcam"})


class Explainer(Protocol):
    """A loaded artifact that gives maps."""

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those that it has, in the order of :data:`METHODS`."""

    def run(self, pixels_u8_nhwc: Pixels, method: Method) -> Outputs:
        """``logit`` (B,), the map (B, h, w) under the method's name, and the numbers (B,) that the network gives besides."""

    def close(self) -> None:
        """Give back its memory."""


def open_explainer(artifact: Artifact, *, layer: str | None = None, threads: int | None = None) -> Explainer:
    """The explainer for this kind of artifact; `layer` names the module of a checkpoint that Grad-CAM looks at.

    Raises:
        ExplainError: `layer` for a graph.
        RuntimeUnavailable: this machine cannot run the artifact.
    """
    if artifact.manifest.kind == "checkpoint":
        from edgedet.explain.checkpoint import CheckpointExplainer

        return CheckpointExplainer(artifact, layer=layer, threads=threads)
    if layer is not None:
        raise ExplainError(f"{artifact.path}: a graph has no modules: --layer is for checkpoints")
    from edgedet.explain.graph import GraphExplainer

    return GraphExplainer(artifact, threads=threads)


def choose(explainer: Explainer, method: str, artifact: Artifact) -> Method:
    """`method` when the explainer has it, its first one for ``auto``.

    Raises:
        ExplainError: it has no such method, or none; says what it has and how to have more.
    """
    has = explainer.methods
    chosen = next((name for name in has if method in ("auto", name)), None)
    if chosen is not None:
        return chosen
    graph, name = artifact.manifest.kind != "checkpoint", artifact.manifest.detector.name
    if graph and not has:
        raise ExplainError(f"{artifact.path}: this graph gives no map: export its checkpoint again with --maps")
    if method != "auto" and method not in METHODS:
        raise ExplainError(f"no method is called {method!r}{nearest(method, ('auto', *METHODS))}")
    more = "; its checkpoint may have more" if graph else ""
    what = name if method == "auto" else f"{name} and {method!r}"
    raise ExplainError(f"{artifact.path}: there is no such map of {what}; there is: {', '.join(has) or 'none'}{more}")


def split(outputs: Outputs) -> tuple[tuple[Method, ...], tuple[str, ...]]:
    """Of what a network gives besides its logit, the maps (B, h, w) that are methods, and the numbers (B,)."""
    maps = tuple(name for name in METHODS if name in outputs and np.ndim(outputs[name]) == 3)
    numbers = tuple(name for name, value in outputs.items() if name != LOGIT and np.ndim(value) == 1)
    return maps, numbers
