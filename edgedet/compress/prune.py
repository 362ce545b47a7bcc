"""Structured pruning as a stage: whole channels are removed and the rest is taught to make up for them.

Dependency graph and group importance are torch-pruning's (Fang et al., DepGraph, CVPR 2023). Ours: the steps with distillation
between them, the targets, the widths that INT8 kernels want, and a structure that is data instead of a pickled module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
import torch_pruning as tp
from safetensors.torch import load_file
from torch import nn

from edgedet import artifact as artifacts
from edgedet import models
from edgedet.artifact import Artifact, Gate, Manifest
from edgedet.compress.teacher import Answers, Distillation, Listener, ask, require_flips_only
from edgedet.data.index import Index
from edgedet.errors import NothingToPrune, RecipeError
from edgedet.evaluate.assess import inherited
from edgedet.models import structure
from edgedet.models.blocks import SpatialGate, StyleRecalibration
from edgedet.models.pixels import PixelModel
from edgedet.recipe import Config
from edgedet.training import checkpoint, stage
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import Group, group

Cost = Callable[[PixelModel], float]
"""What a network costs; the unit is the caller's."""

Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
_FINE = 100  # a step removes this share of the channels at a time, until its target is met


class PruneRecipe(Config, frozen=True, kw_only=True):
    """``stage = "prune"``: how much is kept, how it is chosen, and how the rest is taught.

    keep: share of the parent's cost that may be left; the cost is MACs, or what the caller measures.
    steps: remove a part, fine-tune, again.
    round_to: widths stay multiples of it; INT8 kernels pad others.
    importance: magnitude (L2 norm of the group), bn-scale (Liu et al., Network Slimming, ICCV 2017), or random, the control.
    max_layer_share: the most that a single layer may lose.
    training: fine-tuning after each step, with the teacher's answers.
    """

    stage: Literal["prune"]
    keep: Share = 0.5
    cost: Literal["macs", "latency"] = "macs"
    steps: Annotated[int, msgspec.Meta(gt=0)] = 2
    round_to: Annotated[int, msgspec.Meta(gt=0)] = 8
    importance: Literal["magnitude", "bn-scale", "random"] = "magnitude"
    max_layer_share: Share = 0.75
    training: TrainingConfig = TrainingConfig(epochs=2)
    distillation: Distillation = Distillation()
    gates: tuple[Gate, ...] = ()


def run(
    config: PruneRecipe,
    parent: Artifact,
    data: Index,
    out: Path,
    *,
    teacher: Artifact | None = None,
    cost: Cost | None = None,
    resume: bool = False,
) -> Artifact:
    """Remove channels from the checkpoint `parent` until `keep` of its cost is left, fine-tuning after each step.

    teacher: whose answers the fine-tuning listens to; the parent's when None.
    cost: replaces MACs, for ``cost = "latency"``.

    Raises:
        NothingToPrune: every group is protected; the message lists them and why.
        ArtifactError: `out` exists, or the parent is no checkpoint.
        RecipeError: ``cost = "latency"`` without `cost`.
        TrainingError: an unfinished run lies beside `out`, and `resume` is not set.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    artifacts.check_free(out)
    stage.check_unfinished(out, resume=resume)
    parent.require("checkpoint")
    require_flips_only(config.training)
    if config.cost == "latency" and cost is None:
        raise RecipeError("`cost = \"latency\"` needs the function that measures it: give `cost`, or prune by MACs")
    model = models.build(parent)
    with group() as processes:
        work = stage.begin(out, processes, resume=resume)
        job = _Job(
            config=config,
            name=parent.manifest.detector.name,
            protected=protected_layers(model.net, parent.manifest.detector.name),
            measure=cost or macs,
            answers=processes.leader_first(lambda: ask(teacher or parent, data.split("train"), amp=config.training.amp)),
            sets=stage.open_sets(data, model.preprocess, config.training, processes),
            parent=parent.digest,
            work=work,
            processes=processes,
            resume=resume,
        )
        before = job.measure(model)
        notes = [f"{name}: not pruned: {why}" for name, why in job.protected.items()]
        for step in range(config.steps):
            left = 1 - (1 - config.keep) * (step + 1) / config.steps
            job.prune(model, before * left, step)
            notes.append(f"step {step + 1}: {job.measure(model) / before:.3f} of the parent's {config.cost} left")
            job.teach(model, step)
        if processes.leads:
            extra = {"cost": {"kind": config.cost, "before": before, "after": job.measure(model)}}
            manifest = _manifest(config, parent, model, tuple(notes))
            stage.write(out, stage.Written(manifest, model, parent.golden.images, parent, extra), data)
        processes.barrier()
    return Artifact.load(out)


def macs(model: PixelModel) -> float:
    """Multiply-accumulates of one image at the model's input size."""
    x = model.normalise(models.example_pixels(model.preprocess, batch=1))
    count, _ = tp.utils.count_ops_and_params(model.net, x)
    return float(count)


def protected_layers(net: nn.Module, name: str) -> dict[str, str]:
    """The layers that pruning leaves alone, each with the reason."""
    reasons = {models.lookup(name).classifier: "the output"}
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1:
            reasons[path] = "depthwise: its channels are those of the layer before it, so both are left alone"
        elif isinstance(module, nn.Conv2d) and module.groups > 1:
            reasons[path] = "grouped convolution: its groups would differ in width"
        elif isinstance(module, SpatialGate):
            reasons[f"{path}.conv"] = "spatial gate: reads two channels and gives one, whatever the widths around it"
        elif isinstance(module, nn.Conv2d) and module.out_channels < 8:
            reasons.setdefault(path, f"only {module.out_channels} channels")
        elif isinstance(module, nn.MultiheadAttention):
            reasons[path] = "attention heads are not pruned here"
    return reasons


def remove(
    net: nn.Module,
    x: torch.Tensor,
    config: PruneRecipe,
    protected: dict[str, str],
    reached: Callable[[], bool],
) -> None:
    """Remove the least important channels of `net` in place, little by little, until `reached`.

    Raises:
        NothingToPrune: nothing more can be removed although the target is not met.
    """
    ignored = [module for path, module in net.named_modules() if path in protected]
    # A spatial gate reads the maximum and the mean over channels, however many there are: its own two never change.
    apart = {SpatialGate: tp.ops.DummyPruner()}
    by_channel = [(module.weight, 0) for module in net.modules() if isinstance(module, StyleRecalibration)]
    pruner = tp.pruner.BasePruner(
        net,
        x,
        importance=_importance(config),
        global_pruning=True,
        pruning_ratio=config.max_layer_share,
        max_pruning_ratio=config.max_layer_share,
        iterative_steps=_FINE,
        ignored_layers=ignored,
        customized_pruners=apart,
        unwrapped_parameters=by_channel,
        round_to=config.round_to,
    )
    for _ in range(_FINE):
        if reached():
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-pruning warns about every layer that it leaves alone
            pruner.step()
    if not reached():
        listed = "; ".join(f"{name} ({why})" for name, why in protected.items())
        raise NothingToPrune(
            f"no more channels can be removed and the target is not met: every other group has lost "
            f"{config.max_layer_share:.0%} or is no multiple of {config.round_to}; protected: {listed}; "
            "raise keep or max_layer_share, or lower round_to"
        )


class _Kept(msgspec.Struct):
    """Of the weights beside it: their widths, and the settings that pruned them."""

    widths: structure.Structure = {}
    settings: str = ""


@dataclass(frozen=True)
class _Job:
    """What stays the same over the steps of one pruning."""

    config: PruneRecipe
    name: str
    protected: dict[str, str]
    measure: Cost
    answers: Answers
    sets: stage.Sets
    parent: str
    work: Path
    processes: Group
    resume: bool

    @property
    def settings(self) -> str:
        """What decides what is pruned: an interrupted run is taken up only where it is the same."""
        return f"{self.config!r} {self.parent} {self.answers.key}"

    def prune(self, model: PixelModel, target: float, step: int) -> None:
        """Prune to `target`, or take up what an interrupted run had pruned at this step.

        Raises:
            TrainingError: that run had other settings, another parent or other data.
        """
        kept = self.work / f"pruned{step + 1}.safetensors"
        if self.resume and kept.is_file():
            before = msgspec.json.decode(kept.with_suffix(".json").read_bytes(), type=_Kept)
            if before.settings != self.settings:
                raise checkpoint.other_run(self.work)
            structure.apply(model.net, before.widths)
            model.net.load_state_dict(load_file(kept))
            self.processes.barrier()
            return
        torch.manual_seed(self.config.training.seed + step)
        model.eval()
        x = model.normalise(models.example_pixels(model.preprocess, batch=1))
        remove(model.net, x, self.config, self.protected, lambda: self.measure(model) <= target)
        self.processes.barrier()
        if self.processes.leads:
            self.keep(model, kept)

    def keep(self, model: PixelModel, path: Path) -> None:
        """Structure first, then the weights in one step: where there are weights, both are whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_bytes(msgspec.json.encode(_Kept(structure.describe(model.net), self.settings)))
        temporary = path.with_suffix(".partial")
        stage.save_state(model, temporary)
        temporary.replace(path)

    def teach(self, model: PixelModel, step: int) -> None:
        """Fine-tune on labels and on the teacher's answers."""
        config = self.config
        objective = Listener(model, self.name, self.answers, config.training, config.distillation)
        out = self.work / f"step{step + 1}"
        title = f"prune {step + 1}/{config.steps}"
        stage.train(objective, config.training, self.sets, out, self.processes, resume=self.resume, title=title)


def _importance(config: PruneRecipe) -> Any:
    kinds = {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn-scale": tp.importance.BNScaleImportance,
        "random": tp.importance.RandomImportance,
    }
    return kinds[config.importance]()


def _manifest(config: PruneRecipe, parent: Artifact, model: PixelModel, notes: tuple[str, ...]) -> Manifest:
    return Manifest(
        kind="checkpoint",
        stage="prune",
        detector=parent.manifest.detector,
        structure=stage.structure_of(model, parent.manifest.detector),
        preprocess=model.preprocess,
        gates=inherited(parent, config.gates),
        notes=notes,
        seed=config.training.seed,
        config=msgspec.to_builtins(config),
        lineage=parent.lineage_for_child(),
        tools=artifacts.tool_versions("torch", "torch-pruning", "timm"),
    )
