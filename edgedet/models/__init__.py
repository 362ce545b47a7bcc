"""Detectors: one file per family, each with its lines of the one table of builders (needs torch).

:func:`create` makes a network by name, :func:`build` rebuilds the one of a checkpoint. Any timm model is ``timm/<name>``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edgedet.artifact import WEIGHTS, Artifact, DetectorSpec
from edgedet.errors import ModelError, nearest
from edgedet.models import (
    attention_effnet,
    backbones,
    bayes,
    cifake,
    cvit,
    cvt,
    edgenet,
    ensemble,
    gram,
    ladeda,
    lite,
    mobilenetv4,
    npr,
    ram,
    reparam,
    resnet,
    safe,
    spai,
    structure,
    vit_heads,
    xception,
)
from edgedet.models.macs import Shapes
from edgedet.models.pixels import PixelModel
from edgedet.models.table import BYTE_MEAN, BYTE_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Detector
from edgedet.preprocess import Preprocess

__all__ = [
    "BYTE_MEAN",
    "BYTE_STD",
    "DETECTORS",
    "ENSEMBLE",
    "HALF",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Detector",
    "build",
    "classifier_of",
    "create",
    "example_pixels",
    "fresh",
    "lookup",
    "rebuild",
    "weightless",
]

FAMILIES = (
    attention_effnet, backbones, bayes, cifake, cvit, cvt, edgenet, gram, ladeda, lite,
    mobilenetv4, npr, ram, reparam, resnet, safe, spai, vit_heads, xception,
)  # fmt: skip
DETECTORS: dict[str, Detector] = {name: line for family in FAMILIES for name, line in family.DETECTORS.items()}
ENSEMBLE = "ensemble"
"""The detector that `edgedet ensemble` makes of others; in no table, for it has no input and no architecture of its own."""


def lookup(name: str) -> Detector:
    """The table's line for `name`; ``timm/<name>`` makes one from timm's own configuration, ``ensemble`` one of its members.

    Raises:
        ModelError: no such detector; the message has the nearest.
    """
    if name.startswith("timm/"):
        return _timm_line(name.removeprefix("timm/"))
    if name == ENSEMBLE:
        return Detector(_ensemble, "edgedet", Preprocess())
    if name not in DETECTORS:
        raise ModelError(f"no detector is called {name!r}{nearest(name, [*DETECTORS, 'timm/<name>'])}")
    return DETECTORS[name]


def create(spec: DetectorSpec) -> nn.Module:
    """A network with fresh (or, where its arguments have `pretrained`, pretrained) weights: (B, 3, H, W) -> (B, 1) or (B, 2).

    Raises:
        ModelError: an unknown detector, or arguments that it does not take.
    """
    line = lookup(spec.name)
    allowed = inspect.signature(line.build).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in allowed.values()):
        for argument in spec.arguments:
            if argument not in allowed:
                raise ModelError(f"{spec.name} takes no argument {argument!r}{nearest(argument, allowed)}")
    try:
        return line.build(**spec.arguments)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{spec.name}: {error}") from error
    except (OSError, RuntimeError) as error:
        if not spec.arguments.get("pretrained"):
            raise
        raise ModelError(f"{spec.name}: no pretrained weights: {error}; set pretrained = false to do without") from error


def weightless(spec: DetectorSpec) -> PixelModel:
    """A network at its published input on the device ``meta``: shapes without values, made in a moment, for counting.

    Raises:
        ModelError: as :func:`create`.
    """
    with torch.device("meta"), Shapes():  # type: ignore[no-untyped-call]
        return PixelModel(create(spec), lookup(spec.name).preprocess).eval()


def rebuild(spec: DetectorSpec, widths: Mapping[str, list[int]]) -> nn.Module:
    """A network with fresh weights and the structure that pruning left; nothing is downloaded."""
    return structure.apply(create(fresh(spec)), dict(widths))


def fresh(spec: DetectorSpec) -> DetectorSpec:
    """The same network without pretrained weights."""
    return DetectorSpec(name=spec.name, arguments={key: each for key, each in spec.arguments.items() if key != "pretrained"})


def build(artifact: Artifact) -> PixelModel:
    """The trained network of a checkpoint, in evaluation mode: uint8 (B, H, W, 3) -> logits (B,).

    Raises:
        ArtifactError: not a checkpoint.
        ModelError: its weights do not fit its builder.
    """
    artifact.require("checkpoint")
    manifest = artifact.manifest
    net = rebuild(manifest.detector, manifest.structure)
    try:
        state = load_file(artifact.file(WEIGHTS))
    except SafetensorError as error:
        raise ModelError(f"{artifact.path}: {WEIGHTS} cannot be read: {error}") from error
    problems = structure.same_shapes(net, state)
    if problems:
        raise ModelError(f"{artifact.path}: the weights do not fit {manifest.detector.name}: {'; '.join(problems[:3])}")
    net.load_state_dict(state)
    return PixelModel(net, manifest.preprocess).eval()


def classifier_of(net: nn.Module, name: str) -> nn.Linear:
    """The last linear layer of the detector `name`.

    Raises:
        ModelError: the table names a layer that is not linear.
    """
    layer = net.get_submodule(lookup(name).classifier)
    if not isinstance(layer, nn.Linear):
        raise ModelError(f"{name}: its classifier is a {type(layer).__name__}, expected a linear layer")
    return layer


def example_pixels(preprocess: Preprocess, batch: int = 2) -> torch.Tensor:
    """Zeros of the shape that the detector takes, uint8 (batch, H, W, 3)."""
    return torch.zeros(batch, preprocess.height, preprocess.width, 3, dtype=torch.uint8)


def _ensemble(*, members: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Networks with fresh weights, given as ``{name, arguments}`` each, as one."""
    specs = [DetectorSpec(name=member["name"], arguments=dict(member.get("arguments", {}))) for member in members]
    return ensemble.Ensemble([create(spec) for spec in specs], [lookup(spec.name).classifier for spec in specs])


def _timm_line(name: str) -> Detector:
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    config = timm.get_pretrained_cfg(name)
    size = config.input_size if config else (3, 224, 224)
    mean, std = (config.mean, config.std) if config else (IMAGENET_MEAN, IMAGENET_STD)
    preprocess = Preprocess(
        height=size[1], width=size[2], mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2])
    )

    def build_timm(**arguments: Any) -> nn.Module:
        net: nn.Module = timm.create_model(name, **{"num_classes": 1, **arguments})
        return net

    classifier = config.classifier if config and isinstance(config.classifier, str) else "head"
    return Detector(build_timm, "timm", preprocess, classifier=classifier, reference=name)
