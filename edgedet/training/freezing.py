"""Which parts of a network are trained: by the start of their names, as in a recipe's `freeze` and its phases' `train`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgedet.errors import TrainingError, nearest
from edgedet.models.pixels import PixelModel
from edgedet.training.config import Phase, TrainingConfig
from edgedet.training.losses import Objective


@dataclass(frozen=True)
class Frozen:
    """Names, inside the network, of the parameters that are not trained and of the BatchNorms that keep their statistics."""

    parameters: frozenset[str] = frozenset()
    norms: frozenset[str] = frozenset()


def network_of(model: nn.Module) -> nn.Module:
    """The network whose parts a recipe names: what a :class:`PixelModel` holds."""
    return model.net if isinstance(model, PixelModel) else model


def frozen(net: nn.Module, freeze: Sequence[str], phase: Phase) -> Frozen:
    """What `freeze` and `phase` keep as it is in `net`.

    A part is a module or a parameter, by its whole name: ``layer1`` is ``layer1`` and ``layer1.0.conv1``, not ``layer10``.

    Raises:
        TrainingError: a name that is no part of the network, or that is both frozen and trained.
    """
    for key, names in (("training.freeze", freeze), ("training.phases.train", phase.train)):
        for name in names:
            _require_part(net, name, key)
    for name in phase.train:
        if _under(name, freeze):
            raise TrainingError(f"`{name}` of training.phases.train is frozen by training.freeze: take it out of one of them")

    def is_frozen(name: str) -> bool:
        return _under(name, freeze) or (bool(phase.train) and not _under(name, phase.train))

    norms = {name for name, module in net.named_modules() if isinstance(module, _BatchNorm)}
    if not phase.freeze_norms:
        norms = {name for name in norms if is_frozen(name)}
    return Frozen(
        frozenset(name for name, _ in net.named_parameters() if is_frozen(name) or name.rpartition(".")[0] in norms),
        frozenset(norms),
    )


def trained(model: nn.Module) -> frozenset[str]:
    """The names, inside its network, of the parameters of `model` that are trained."""
    return frozenset(name for name, parameter in network_of(model).named_parameters() if parameter.requires_grad)


def freeze(model: nn.Module, learning: Collection[str], config: TrainingConfig, phase: Phase) -> Frozen:
    """Train those of the parameters `learning` that `config` and `phase` leave, and say what they keep."""
    net = network_of(model)
    kept = frozen(net, config.freeze, phase)
    thaw(model, learning)
    for name, parameter in net.named_parameters():
        if name in kept.parameters:
            parameter.requires_grad_(False)
    return kept


def thaw(model: nn.Module, learning: Collection[str]) -> None:
    """Train the parameters `learning` and no others."""
    for name, parameter in network_of(model).named_parameters():
        parameter.requires_grad_(name in learning)


def train_mode(objective: Objective, kept: Frozen) -> None:
    """Training mode, but for the BatchNorms that keep their statistics."""
    objective.train()
    for name, module in network_of(objective.model).named_modules():
        if name in kept.norms:
            module.eval()


def check(model: nn.Module, config: TrainingConfig) -> None:
    """Refuse the parts of any phase before the first begins.

    Raises:
        TrainingError: as :func:`frozen`, or a phase in which nothing is left to train.
    """
    net = network_of(model)
    learning = trained(model)
    for number, phase in enumerate(config.phases or (Phase(),), 1):
        if learning <= frozen(net, config.freeze, phase).parameters:
            where = f"phase {number}" if config.phases else "training"
            raise TrainingError(f"nothing to train: every parameter is frozen in {where}: freeze fewer parts, or train more")


def _under(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _require_part(net: nn.Module, name: str, key: str) -> None:
    parameters = [known for known, _ in net.named_parameters()]
    if any(_under(known, [name]) for known in parameters):
        return
    modules = {known for known, module in net.named_modules() if known and any(True for _ in module.parameters())}
    hint = nearest(name, modules | set(parameters))
    if "did you mean" not in hint:
        hint = nearest("", {known.partition(".")[0] for known in parameters})
    raise TrainingError(f"{key} names {name!r}, which is no part of the network with parameters{hint}")
