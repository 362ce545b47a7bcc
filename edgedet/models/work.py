"""The work of a network, counted in one pass on shapes alone; what is counted is said in :class:`edgedet.work.Work`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from edgedet import models
from edgedet.artifact import Artifact
from edgedet.errors import ModelError
from edgedet.models.macs import Shapes
from edgedet.models.pixels import PixelModel
from edgedet.work import Work

_ATEN = torch.ops.aten
_CONVOLUTIONS = frozenset({_ATEN.convolution, _ATEN._convolution})
_LINEAR = frozenset({_ATEN.mm, _ATEN.addmm})
"""As torch takes them apart, these have a constant second matrix, and `_BATCHED` have none."""
_BATCHED = frozenset({_ATEN.bmm, _ATEN.baddbmm})
_NAMES = ("native_layer_norm", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean")
_KEPT = frozenset(getattr(_ATEN, name) for name in _NAMES)


def of_artifact(artifact: Artifact) -> Work:
    """The work of one image through an artifact's network, with the widths that pruning left; its weights are not read.

    Raises:
        ModelError: it reads patches of images of any size, so that no one image says what it does.
    """
    manifest = artifact.manifest
    if manifest.preprocess.geometry == "native" or manifest.preprocess.patch is not None:
        raise ModelError(f"{artifact.path}: takes images of any size: how much work it does is not one number")
    with torch.device("meta"), Shapes():  # type: ignore[no-untyped-call]
        model = PixelModel(models.rebuild(manifest.detector, manifest.structure), manifest.preprocess).eval()
    return of_model(model)


def of_model(model: PixelModel) -> Work:
    """The work of one image at the model's input size, of the network as it is deployed.

    On the device ``meta`` nothing is computed.
    """
    device = next(model.parameters()).device
    pixels = torch.zeros(1, model.preprocess.height, model.preprocess.width, 3, dtype=torch.uint8, device=device)
    return of_pass(model.deployed(), pixels)


def of_pass(module: nn.Module, x: Tensor) -> Work:
    """The work of ``module(x)`` in evaluation."""
    training = module.training
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _Count() as count:
        module.eval()(x)
    module.train(training)
    return Work(**count.found, kernels=count.kernels)


class _Count(Shapes):  # type: ignore[no-untyped-call]
    """Adds up what the operators of a pass do."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        names = ("macs", "convolution_macs", "grouped_macs", "attention_macs", "weights", "elements")
        self.found = dict.fromkeys(names, 0.0)
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_dispatch__(func, types, args, kwargs)
        kind = func._overloadpacket
        if kind in _CONVOLUTIONS:
            macs = self._product(kind, args, kwargs, made)
            self.found["convolution_macs"] += macs
            self.found["grouped_macs"] += macs if args[1].shape[1] < args[0].shape[1] else 0.0
            self._moves(args[0], made, weights=args[1])
        elif kind in _LINEAR:
            self._product(kind, args, kwargs, made)
            self._moves(args[-2], made, weights=args[-1])
        elif kind in _BATCHED:
            self.found["attention_macs"] += self._product(kind, args, kwargs, made)
            self._moves(*sorted((args[-2], args[-1], made), key=torch.Tensor.numel)[:2])  # the largest are the scores
        elif kind in _KEPT:
            self._moves(args[0], made[0] if isinstance(made, tuple) else made)
        elif kind is _ATEN.cat or (kind is _ATEN.mul and _is_gate(*args[:2])):
            self._moves(made, made)
        return made

    def _product(self, kind: Any, args: Any, kwargs: Any, made: Tensor) -> float:
        """Its multiply-accumulates, by torch's own formulas, counted."""
        macs = float(flop_registry[kind](*args, **(kwargs or {}), out_val=made)) / 2
        self.found["macs"] += macs
        return macs

    def _moves(self, read: Tensor, written: Tensor, *, weights: Tensor | None = None) -> None:
        self.kernels += 1
        self.found["elements"] += read.numel() + written.numel()
        self.found["weights"] += 0 if weights is None else weights.numel()


def _is_gate(one: Any, other: Any) -> bool:
    """Whether a product element by element spreads one map over the other, so that no product before can take it in."""
    return isinstance(one, Tensor) and isinstance(other, Tensor) and one.dim() == other.dim() > 1 and one.shape != other.shape
