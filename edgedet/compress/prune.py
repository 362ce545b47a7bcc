"""Structured pruning as a stage: whole channels and attention heads are removed, and the rest is taught to make up for them.

Which layers go together is torch-pruning's to find (Fang et al., DepGraph, CVPR 2023). Ours: heads, a trial of what was found,
the steps with distillation between them, targets, widths that INT8 kernels want, and a structure that is data instead of a
pickled module.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgedet import artifact as artifacts
from edgedet import models
from edgedet.artifact import Ancestor, Artifact, Gate, Manifest
from edgedet.compress import depth, removal
from edgedet.compress.cost import latency
from edgedet.compress.distillation import Distillation, require_answers
from edgedet.compress.ensemble import besides, consult, require_ensemble, require_fit
from edgedet.compress.groups import Found, Kind, find
from edgedet.compress.groups import Group as DepGroup
from edgedet.compress.importance import Importance, Losses, no_losses, scores
from edgedet.compress.patches import listener
from edgedet.compress.proof import proven
from edgedet.compress.teacher import Answers
from edgedet.data.dataset import ImageSet
from edgedet.data.index import Index
from edgedet.errors import NothingToPrune, RecipeError
from edgedet.evaluate.assess import inherited, require_assessable
from edgedet.models import structure
from edgedet.models.macs import macs
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.recipe import Config
from edgedet.training import checkpoint, stage
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import Group, group
from edgedet.training.losses import label_loss

Cost = Callable[[PixelModel], float]
"""What a network costs; the unit is the caller's."""

Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Positive = Annotated[int, msgspec.Meta(gt=0)]
_BATCH = 32


class PruneRecipe(Config, frozen=True, kw_only=True):
    """``stage = "prune"``: how much is kept, how it is chosen, and how the rest is taught.

    keep: share of the parent's cost that may be left; the cost is MACs, or what the caller measures.
    dims: what may go: channels of convolutions, hidden widths of an mlp, attention heads (whole: their width stays), and the
        embedding, which all blocks of a transformer share; each loses the same share.
    depth: share of the residual blocks that is left; those that change least what goes through them are taken out whole before
        anything else, by `images` of the training split (`edgedet.compress.depth`).
    cost: multiply-accumulates, or the latency that is measured on this machine.
    steps: remove a part, fine-tune, again.
    min_gain: the least share of the measured latency that a step must take off; a step that takes less is undone, and is the
        last. 0 to measure nothing. Kernels work on blocks of channels: work that goes need not be time that goes.
    round_to: widths that are cut become multiples of it; INT8 kernels pad others.
    importance: the units that go first have the least `magnitude` of weights, BatchNorm scale (`bn-scale`, Network Slimming)
        or change of the loss (`taylor`), or are taken at `random`, the control.
    images: how many of the training split ``taylor`` and `depth` read.
    max_layer_share: the most that a single layer may lose.
    training: fine-tuning after each step, with the teacher's answers; augmentation as for ``distill``.
    distillation: how much the fine-tuning listens to the teacher.
    gates: what the artifact and all its descendants must hold, besides the parent's.
    """

    stage: Literal["prune"]
    keep: Share = 0.5
    depth: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    cost: Literal["macs", "latency"] = "macs"
    dims: tuple[Kind, ...] = ("channels", "mlp", "heads")
    steps: Positive = 2
    min_gain: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    round_to: Positive = 8
    importance: Importance = "magnitude"
    images: Positive = 256
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
    teachers: Sequence[Artifact] = (),
    cost: Cost | None = None,
    clock: Cost = latency,
    resume: bool = False,
) -> Artifact:
    """Remove channels from the checkpoint `parent` until `keep` of its cost is left, fine-tuning after each step.

    teachers: whose answers the fine-tuning listens to, the mean of several; the parent's when there are none.
    cost: replaces MACs, for ``cost = "latency"``. clock: what `min_gain` measures, in milliseconds.

    Raises:
        NothingToPrune: every group is protected; the message lists them and why. Or the first step does not pay.
        ArtifactError: `out` exists, or the parent is no checkpoint.
        RecipeError: ``cost = "latency"`` without `cost`.
        TrainingError: the augmentation moves pixels that the teachers were asked about, a teacher is given twice, or an
            unfinished run lies beside `out` and `resume` is not set.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    artifacts.check_free(out)
    stage.check_unfinished(out, resume=resume)
    parent.require("checkpoint")
    require_answers(config.training, config.distillation)
    if config.cost == "latency" and cost is None:
        raise RecipeError("`cost = \"latency\"` needs the function that measures it: give `cost`, or prune by MACs")
    require_assessable(inherited(parent, config.gates), data)
    model, guides = models.build(parent), tuple(teachers) or (parent,)
    require_ensemble(guides, config.distillation)
    require_fit(guides, model, parent.manifest.detector.name, config.distillation)
    with group() as processes:
        work = stage.begin(out, processes, resume=resume)
        job = _Job(
            config=config,
            name=parent.manifest.detector.name,
            measure=cost or macs,
            clock=clock,
            answers=processes.leader_first(
                lambda: consult(guides, data.split("train"), config.distillation, amp=config.training.amp)
            ),
            sets=stage.open_sets(data, model.preprocess, config.training, processes),
            parent=parent.digest,
            work=work,
            processes=processes,
            resume=resume,
        )
        before = job.measure(model)
        notes: list[str] = []
        for step in range(config.steps):
            left = 1 - (1 - config.keep) * (step + 1) / config.steps
            whole = copy.deepcopy(model) if config.min_gain else model
            done = job.prune(model, before * left, step)
            notes += [f"taken out whole: {', '.join(done.removed)}"] if done.removed else []
            notes += [f"{name}: not pruned: {why}" for name, why in done.reasons.items()] if step == 0 else []
            if done.gain is not None and done.gain < config.min_gain:
                took = f"it took {done.gain:.1%} off the latency, not {config.min_gain:.1%}"
                if step == 0:
                    raise NothingToPrune(f"pruning does not pay here: {took}; remove more a step, or lower min_gain")
                notes.append(f"step {step + 1}: undone, and the last: {took}")
                model = whole
                break
            notes.append(f"step {step + 1}: {job.measure(model) / before:.3f} of the parent's {config.cost} left")
            job.teach(model, step)
        if processes.leads:
            extra = {"cost": {"kind": config.cost, "before": before, "after": job.measure(model)}}
            manifest = _manifest(config, parent, besides(parent, guides), model, tuple(notes))
            stage.write(out, stage.Written(manifest, model, parent.golden.images, parent, extra), data)
        processes.barrier()
    return Artifact.load(out)


def prunable(model: PixelModel, name: str, dims: tuple[Kind, ...]) -> Found:
    """What can be removed from the detector `name`, each group of it tried, and what is left alone and why."""
    x = model.normalise(models.example_pixels(model.preprocess, batch=1))
    return proven(model.net, x, find(model.net, x, classifier=models.lookup(name).classifier, kinds=dims))


def planned(config: PruneRecipe, parent: Artifact) -> structure.Structure | None:
    """The structure that `run` would give the checkpoint `parent`, without teaching it.

    None where that is known only by doing it: images, chance or a clock decide, or further steps follow the first.

    Raises:
        NothingToPrune: as `run`.
    """
    decided = config.importance in ("magnitude", "bn-scale") and config.cost == "macs" and not config.min_gain
    if not decided or config.steps > 1 or config.depth < 1:
        return None
    model, spec = models.build(parent), parent.manifest.detector
    target = macs(model) * config.keep
    narrow(model, spec.name, config, lambda candidate: macs(candidate) <= target)
    return stage.structure_of(model, spec)


def narrow(
    model: PixelModel, name: str, config: PruneRecipe, enough: Callable[[PixelModel], bool], losses: Losses = no_losses
) -> dict[str, str]:
    """Remove the least important units of the detector `name`, in place: the least share of them with which it is `enough`.

    losses: what ``importance = "taylor"`` reads.
    Returns what was left alone, and why.

    Raises:
        NothingToPrune: nothing more can be removed although it is not enough.
    """
    found = prunable(model, name, config.dims)
    measured = scores(config.importance, model.net, found.groups, losses)
    limits, reasons = removal.Limits(config.round_to, config.max_layer_share), dict(found.reasons)
    known: dict[DepGroup, Tensor] = {}
    for each, score in zip(found.groups, measured, strict=True):
        if score is None:
            reasons[each.name] = f"{config.importance} says nothing of it"
        elif limits.least(each) == each.count:
            reasons[each.name] = f"of {each.count} {each.kind} {limits.max_share:.0%} may go, {limits.step(each)} at a time"
        else:
            known[each] = score
    groups = list(known)
    kept = removal.until(
        model.net, groups, list(known.values()), limits, lambda net: enough(PixelModel(net, model.preprocess).eval())
    )
    if kept is None:
        listed = "; ".join(f"{layer} ({why})" for layer, why in reasons.items())
        raise NothingToPrune(
            f"no more can be removed and the target is not met: every other group has lost {config.max_layer_share:.0%}; "
            f"protected: {listed}; raise keep or max_layer_share, lower round_to ({config.round_to}), or widen dims"
        )
    removal.remove(model.net, groups, kept)
    return reasons


class _Kept(msgspec.Struct):
    """Of the weights beside it: their widths, what was left alone and why, and the settings that pruned them.

    removed: the blocks that were taken out whole.
    gain: the share of the latency that they took off, where that was measured.
    """

    widths: structure.Structure = {}
    removed: list[str] = []
    reasons: dict[str, str] = {}
    settings: str = ""
    gain: float | None = None


@dataclass(frozen=True)
class _Job:
    """What stays the same over the steps of one pruning."""

    config: PruneRecipe
    name: str
    measure: Cost
    clock: Cost
    answers: Answers
    sets: stage.Sets
    parent: str
    work: Path
    processes: Group
    resume: bool

    @property
    def settings(self) -> str:
        """What decides what is pruned: an interrupted run is taken up only where it is the same."""
        return f"{msgspec.structs.replace(self.config, gates=())!r} {self.parent} {self.answers.key}"

    def prune(self, model: PixelModel, target: float, step: int) -> _Kept:
        """Prune to `target`, or take up what an interrupted run had pruned at this step; gives what that did.

        The leading process decides, and all take it up: a time or a gradient is not the same to the bit in each.

        Raises:
            TrainingError: that run had other settings, another parent or other data.
        """
        kept = self.work / f"pruned{step + 1}.safetensors"
        if self.processes.leads and not (self.resume and kept.is_file()):
            torch.manual_seed(self.config.training.seed + step)
            losses = _losses(self.sets.train, model.preprocess, self.config)
            took = self.clock(model) if self.config.min_gain else None
            removed = self.shorten(model) if step == 0 and self.config.depth < 1 else []
            reasons: dict[str, str] = {}
            if self.measure(model.eval()) > target:
                reasons = narrow(model, self.name, self.config, lambda candidate: self.measure(candidate) <= target, losses)
            gain = None if took is None else 1 - self.clock(model) / took
            self.keep(model, kept, _Kept(structure.describe(model.net), removed, reasons, self.settings, gain))
        self.processes.barrier()
        before = msgspec.json.decode(kept.with_suffix(".json").read_bytes(), type=_Kept)
        if before.settings != self.settings:
            raise checkpoint.other_run(self.work)
        structure.apply(model.net, before.widths)
        model.net.load_state_dict(load_file(kept))
        self.processes.barrier()
        return before

    def shorten(self, model: PixelModel) -> list[str]:
        """Take out the residual blocks that `depth` leaves no room for, in place; gives their names.

        Raises:
            NothingToPrune: there is no such block.
        """
        pixels = (model.normalise(pixels) for pixels, _ in _batches(self.sets.train, model.preprocess, self.config))
        known = depth.blocks(model.net, model.normalise(models.example_pixels(model.preprocess, batch=1)))
        if not known:
            raise NothingToPrune(f"{self.name} has no residual block that could be taken out whole: leave `depth` at 1")
        return depth.shorten(model.net, depth.influence(model.net, known, pixels), self.config.depth)

    def keep(self, model: PixelModel, path: Path, kept: _Kept) -> None:
        """Structure first, then the weights in one step: where there are weights, both are whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_bytes(msgspec.json.encode(kept))
        temporary = path.with_suffix(".partial")
        stage.save_state(model, temporary)
        temporary.replace(path)

    def teach(self, model: PixelModel, step: int) -> None:
        """Fine-tune on labels and on the teacher's answers."""
        config = self.config
        torch.manual_seed(config.training.seed + step)  # asking the teacher may have drawn
        objective = listener(model, self.name, self.answers, config.training, config.distillation)
        out = self.work / f"step{step + 1}"
        title = f"prune {step + 1}/{config.steps}"
        stage.train(objective, config.training, self.sets, out, self.processes, resume=self.resume, title=title)


def _losses(images: ImageSet, preprocess: Preprocess, config: PruneRecipe) -> Losses:
    """The loss of labels on some of the training images that have one, a batch at a time.

    Raises:
        DataError: it is to be read, and none has.
    """
    known = images.index.labels_or_nan
    if config.importance == "taylor" and np.isnan(known).all():
        _ = images.index.labels  # says that they have none

    def of(net: nn.Module) -> Iterator[Tensor]:
        model, labels = PixelModel(net, preprocess).eval(), torch.from_numpy(known)
        for pixels, positions in _batches(images, preprocess, config, ~np.isnan(known)):
            yield label_loss(model(pixels), labels[positions], config.training)

    return of


def _batches(
    images: ImageSet, preprocess: Preprocess, config: PruneRecipe, among: npt.NDArray[np.bool_] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some of the training images, the middle of those larger than the input: uint8 (B, H, W, 3), and their positions.

    among: (N,), those that may be taken; all of them when None.
    """
    order = np.random.default_rng(config.training.seed).permutation(len(images))
    order = (order if among is None else order[among[order]])[: config.images]
    for start in range(0, len(order), _BATCH):
        positions = order[start : start + _BATCH]
        pixels = torch.from_numpy(images.gather(positions))
        top, left = (pixels.shape[1] - preprocess.height) // 2, (pixels.shape[2] - preprocess.width) // 2
        yield pixels[:, top : top + preprocess.height, left : left + preprocess.width], torch.from_numpy(positions)


def _manifest(
    config: PruneRecipe, parent: Artifact, teachers: tuple[Ancestor, ...], model: PixelModel, notes: tuple[str, ...]
) -> Manifest:
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
        teachers=teachers,
        tools=artifacts.tool_versions("torch", "torch-pruning", "timm"),
    )
