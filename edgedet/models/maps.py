"""Heat-maps that a network gives in its forward pass, without gradients: further outputs behind the logit, also when exported.

cam: ``sum_c w_c F_c``, (B, h, w): the channels F of the last feature map, weighted by the classifier, for two classes by the
    difference of its rows (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016). Raw: above 0 what
    speaks for fake, below 0 for real, and its mean with the classifier's bias is the logit. What lies above 0 is Grad-CAM at
    that map up to the factor 1 / (h w) (Selvaraju et al., ICCV 2017, section 3.1).
attention: of a network with spatial gates and no attention of its own, the mean of the last stage's, (B, h, w); where a channel
    gate stands beside the spatial one, each times the mean of that: the share of the features that passes both.
Besides, whatever the network's own ``outputs`` gives (`edgedet.models.pixels`): patches, attention, uncertainty.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models import lookup
from edgedet.models.blocks import ChannelGate, SpatialGate
from edgedet.models.pixels import PixelModel
from edgedet.models.table import Detector

CAM, PATCHES, ATTENTION = "cam", "patches", "attention"


class Kept:
    """What a tap has last seen. Not part of a module's state: torch.export takes it for a plain object."""

    value: Tensor | None = None

    def take(self) -> Tensor:
        """The value, given away: an exporter complains of what is still held after it."""
        value, self.value = self.value, None
        if value is None:
            raise RuntimeError("the tapped module was not called in this forward pass")
        return value


class Tap(nn.Module):
    """`module`, whose output is kept to be read after the forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.kept = Kept()

    def forward(self, *inputs: Tensor) -> Tensor:
        self.kept.value = torch.as_tensor(self.module(*inputs))
        return self.kept.value


class Maps(nn.Module):
    """A copy of `model` that gives a tuple: the logit (B,), then one output for each of `names`."""

    def __init__(self, model: PixelModel, line: Detector) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        own = _own_outputs(self.model)
        self.weights = _class_weights(self.model.net, line) if PATCHES not in own else None  # those are the map, and its bias
        self.features = tap(self.model.net, line.features) if self.weights is not None and line.features else None
        self.gates = _tapped_gates(self.model.net) if ATTENTION not in own else []
        computed = (CAM if self.features else "", ATTENTION if self.gates else "")
        self.names = (*filter(None, computed), *own)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, H, W, 3) -> (logit, ...), the maps signed and as large as the network makes them."""
        given = self.model.outputs(pixels)
        if self.features is not None and self.weights is not None:
            given[CAM] = (self.features.take() * self.weights).sum(1)
        if self.gates:
            given[ATTENTION] = _last_stage([_passing(*gates) for gates in self.gates])
        return (given["logit"], *(given[name] for name in self.names))


def with_maps(model: PixelModel, detector: str) -> Maps:
    """`model`, the detector of that name, with its maps.

    Raises:
        ModelError: it gives nothing besides its logit.
    """
    found = Maps(model, lookup(detector))
    if not found.names:
        raise ModelError(f"{detector} gives its logit and nothing else: no map of it is averaged, nor has it other outputs")
    return found


def tap(net: nn.Module, name: str) -> Kept:
    """Put a tap on the module `name` of `net`, in place; where its outputs are kept."""
    tapped = Tap(net.get_submodule(name))
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, tapped)
    return tapped.kept


def _own_outputs(model: PixelModel) -> tuple[str, ...]:
    """The names of what the network gives besides the logit."""
    if getattr(model.net, "outputs", None) is None:
        return ()
    pixels = torch.zeros(1, model.preprocess.height, model.preprocess.width, 3, dtype=torch.uint8)
    with torch.no_grad():
        return tuple(name for name in model.outputs(pixels) if name != "logit")


def _class_weights(net: nn.Module, line: Detector) -> Tensor | None:
    """How the classifier weighs each channel towards fake, (C, 1, 1); None where no map is averaged into a linear layer.

    One row is the logit's. Rows (real, fake), several times where a Bayesian layer is frozen: the mean of their differences.
    """
    layer = net.get_submodule(line.classifier) if line.features else None
    if not isinstance(layer, nn.Linear):
        return None
    rows = layer.weight.detach().clone()
    towards_fake = rows[0] if len(rows) == 1 else (rows[1::2] - rows[::2]).mean(0)
    return towards_fake[:, None, None]


def _tapped_gates(net: nn.Module) -> list[tuple[Kept, Kept | None]]:
    """Each spatial gate of `net`, and the channel gate beside it in the same module."""
    spatial = [name for name, module in net.named_modules() if isinstance(module, SpatialGate)]
    found = []
    for name in spatial:
        around = name.rpartition(".")[0]
        beside = [child for child, module in net.get_submodule(around).named_children() if isinstance(module, ChannelGate)]
        channel = tap(net, f"{around}.{beside[0]}".removeprefix(".")) if beside else None
        found.append((tap(net, name), channel))
    return found


def _passing(spatial: Kept, channel: Kept | None) -> Tensor:
    """(B, 1, h, w): the spatial gate, times the mean of the channel gate (B, C, 1, 1)."""
    return spatial.take() if channel is None else spatial.take() * channel.take().mean(1, keepdim=True)


def _last_stage(gates: list[Tensor]) -> Tensor:
    """The mean (B, h, w) of those gates (B, 1, h, w) that have the size of the last one."""
    last = [gate for gate in gates if gate.shape == gates[-1].shape]
    return (functools.reduce(torch.add, last) / len(last)).squeeze(1)
