"""What a line of the table of detectors says; each family's module has its own lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from edgedet.preprocess import Preprocess

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
# With these the uint8 pixels are the quantized input already (scale 1 / 128, zero point 128).
BYTE_MEAN, BYTE_STD = (128 / 255,) * 3, (128 / 255,) * 3
ATTENTION_NOTE = "linear layers in INT8; the products of queries, keys and values, softmax, LayerNorm and GELU in float"
"""The `int8_notes` of a transformer."""


@dataclass(frozen=True)
class Detector:
    """How to build a detector, where it comes from, its published input, and what is to be known before it is exported.

    classifier: the last linear layer's name; its input is the embedding that distillation matches.
    reference: the timm architecture whose published figures stand beside it; None when there is none.
    front_end: what is computed of the pixels before the network, in words; empty for nothing but normalisation.
    features: the module whose output (B, C, h, w) is averaged over h and w into the classifier's input: its channels, weighted
        by the classifier, are a heat-map without gradients. None when there is no such module.
    own_size: whether the network takes images of one size only, as one with a position embedding does: the published one, or
        the builder's argument `side` where there is one.
    export_notes, int8_notes: what an exporter and a quantizer of it must know.
    """

    build: Callable[..., nn.Module]
    source: str
    preprocess: Preprocess
    classifier: str = "head"
    reference: str | None = None
    front_end: str = ""
    features: str | None = None
    own_size: bool = False
    export_notes: str = ""
    int8_notes: str = ""


Detectors = Mapping[str, Detector]


def require_published(pretrained: bool, **shape: tuple[object, object]) -> None:
    """Pretrained weights fit the published network alone; `shape` has what was asked for and what was published, by argument.

    Raises:
        ValueError: pretrained weights for another network.
    """
    other = [f"{key} = {given} ({published})" for key, (given, published) in shape.items() if given != published]
    if pretrained and other:
        raise ValueError(f"there are no pretrained weights for {', '.join(other)}: set pretrained = false, or leave these out")
