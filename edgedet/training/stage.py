"""Full-precision training as a stage: a recipe and a data set in, a checkpoint out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.torch as safetensors
import torch

from edgedet import artifact as artifacts
from edgedet import models
from edgedet.artifact import GOLDEN, WEIGHTS, Artifact, DetectorSpec, Gate, Golden, Manifest
from edgedet.data.dataset import ImageSet, open_set
from edgedet.data.index import Index
from edgedet.data.simulate import golden_images
from edgedet.data.store import work_folder
from edgedet.errors import TrainingError
from edgedet.evaluate.assess import assess, inherited, require_assessable
from edgedet.models import structure
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.recipe import Config, convert
from edgedet.training import checkpoint, journal
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import Group, group
from edgedet.training.loop import FitResult, Task, fit
from edgedet.training.losses import Objective, supervised


class TrainRecipe(Config, frozen=True, kw_only=True):
    """``stage = "train"``: which detector, from which pixels, trained how, and what its descendants must hold.

    detector: which network.
    preprocess: changes to the detector's published input, key by key.
    training: how it is trained.
    gates: what the artifact and all its descendants must hold.
    published: the figures of the source, as data; nothing is computed from them.
    """

    stage: Literal["train"]
    detector: DetectorSpec
    preprocess: dict[str, Any] = {}
    training: TrainingConfig = TrainingConfig()
    gates: tuple[Gate, ...] = ()
    published: dict[str, float] = {}


@dataclass(frozen=True)
class Sets:
    """The images that a stage trains on and validates on, decoded for one preprocessing."""

    train: ImageSet
    val: ImageSet

    @classmethod
    def open(cls, data: Index, preprocess: Preprocess, config: TrainingConfig) -> Sets:
        """Training images carry the margin that augmentation crops; validation images are what the device sees.

        Raises:
            DataError: a split is missing, or an image cannot be decoded.
        """
        wider = with_margin(preprocess, config.augment.margin)
        return cls(open_set(data.split("train"), wider), open_set(data.split("val"), preprocess))


def run(config: TrainRecipe, parent: Artifact | None, data: Index, out: Path, *, resume: bool = False) -> Artifact:
    """Train a detector from its builder's weights, or those of the checkpoint `parent`; an unfinished run lies beside `out`.

    Raises:
        ArtifactError: `out` exists, or the parent is no checkpoint.
        DataError: a split is missing.
        TrainingError: an unfinished run lies beside `out`, and `resume` is not set; or the parent is another detector than the
            recipe's, or reads other pixels.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    artifacts.check_free(out)
    check_unfinished(out, resume=resume)
    require_assessable(inherited(parent, config.gates), data)
    preprocess = adjusted(models.lookup(config.detector.name).preprocess, config.preprocess)
    torch.manual_seed(config.training.seed)
    model = PixelModel(models.create(config.detector), preprocess) if parent is None else _taken_up(parent, config, preprocess)
    images = tuple(golden_images()) if parent is None else parent.golden.images
    with group() as processes:
        sets = open_sets(data, preprocess, config.training, processes)
        objective = supervised(model, models.lookup(config.detector.name).classifier, config.training)
        subject = subject_of(config.detector, preprocess) + (f" {parent.digest}" if parent else "")
        result = train(objective, config.training, sets, out, processes, resume=resume, subject=subject)
        if processes.leads:
            extra = {"best_epoch": result.best_epoch}
            write(out, Written(_manifest(config, preprocess, parent), model, images, parent, extra), data)
        processes.barrier()
    return Artifact.load(out)


@dataclass(frozen=True)
class Written:
    """What a stage has made and now writes.

    images: the encoded golden photographs; extra: figures of its own for the manifest.
    """

    manifest: Manifest
    model: PixelModel
    images: tuple[bytes, ...]
    parent: Artifact | None
    extra: Mapping[str, object]


def write(out: Path, made: Written, data: Index) -> None:
    """Write the checkpoint at `out`, assessed on the validation split of `data`, and clear the work folder.

    The golden logits are those of the network as it is rebuilt from the files, which proves that it can be.
    """
    with artifacts.writing(out) as draft:
        draft.manifest = made.manifest
        write_weights(draft.path, made.model)
        again = models.build(draft.preview())
        write_golden(draft.path, again, made.images, made.parent.golden.logits if made.parent else None)
        for path in history(out):
            shutil.copy(path, draft.path)
        draft.manifest = assess(draft, data, parent=made.parent, extra=made.extra)
    clear(out)


def _taken_up(parent: Artifact, config: TrainRecipe, preprocess: Preprocess) -> PixelModel:
    """The network of a checkpoint, where the recipe is for it."""
    parent.require("checkpoint")
    wanted, theirs = models.fresh(config.detector), models.fresh(parent.manifest.detector)
    if wanted != theirs:
        raise TrainingError(f"{parent.path}: is {theirs.text}, the recipe is for {wanted.text}: give a recipe for the former")
    before = parent.manifest.preprocess
    if keys := [key for key in preprocess.__struct_fields__ if getattr(preprocess, key) != getattr(before, key)]:
        its, ours = (", ".join(f"{key}={getattr(each, key)}" for key in keys) for each in (before, preprocess))
        raise TrainingError(
            f"{parent.path}: reads pixels with {its}, the recipe is for {ours}: set the recipe's `preprocess` to the former"
        )
    return models.build(parent)


def _manifest(config: TrainRecipe, preprocess: Preprocess, parent: Artifact | None) -> Manifest:
    return Manifest(
        kind="checkpoint",
        stage="train",
        detector=config.detector,
        structure=parent.manifest.structure if parent else {},
        preprocess=preprocess,
        gates=inherited(parent, config.gates),
        lineage=parent.lineage_for_child() if parent else (),
        seed=config.training.seed,
        config=msgspec.to_builtins(config),
        tools=artifacts.tool_versions("torch", "torchvision", "timm"),
    )


def train(
    objective: Objective,
    config: TrainingConfig,
    sets: Sets,
    out: Path,
    processes: Group,
    *,
    resume: bool,
    title: str = "train",
    subject: str = "",
) -> FitResult:
    """:func:`edgedet.training.loop.fit` in the work folder of `out`; `subject` as in `edgedet.training.loop.Task`.

    Raises:
        TrainingError: an unfinished run lies there, and `resume` is not set; or it is another one.
    """
    work = begin(out, processes, resume=resume)
    return fit(objective, Task(config, sets.train, sets.val, work, processes, title, subject), resume=resume)


def subject_of(detector: DetectorSpec, preprocess: Preprocess) -> str:
    """A network and its pixels: different ones may have tensors of the same names and shapes."""
    return f"{detector!r} {preprocess!r}"


def check_unfinished(out: Path, *, resume: bool) -> None:
    """Refuse to throw away hours of somebody's training, before the work starts.

    Raises:
        TrainingError: an unfinished run lies beside `out`, and `resume` is not set.
    """
    work = work_folder(out)
    if not resume and any(work.rglob(checkpoint.STATE)):
        raise TrainingError(
            f"{work}: holds an unfinished run: add --resume to go on with it, or remove that folder to start anew"
        )


def begin(out: Path, processes: Group, *, resume: bool) -> Path:
    """The work folder of `out`; what a run left there that never saved its state is cleared.

    Raises:
        TrainingError: as :func:`check_unfinished`.
    """
    check_unfinished(out, resume=resume)
    work = work_folder(out)
    if not resume and processes.leads:
        shutil.rmtree(work, ignore_errors=True)
    processes.barrier()
    return work


def open_sets(data: Index, preprocess: Preprocess, config: TrainingConfig, processes: Group) -> Sets:
    """:meth:`Sets.open`, decoded by the leading process first, so that the others find the cache."""
    return processes.leader_first(lambda: Sets.open(data, preprocess, config))


def adjusted(preprocess: Preprocess, changes: Mapping[str, Any], source: str = "preprocess") -> Preprocess:
    """`preprocess` with some keys changed, validated as a recipe is; a new geometry does not keep the other's `resize`."""
    kept = msgspec.to_builtins(preprocess)
    if changes.get("geometry", kept["geometry"]) != kept["geometry"]:
        kept.pop("resize")
    return convert({**kept, **changes}, Preprocess, source=source)


def with_margin(preprocess: Preprocess, margin: int) -> Preprocess:
    """The same geometry with `margin` more pixels in each direction, for random crops."""
    if not margin:
        return preprocess
    resize = max(preprocess.resize or 0, preprocess.height + margin, preprocess.width + margin) or None
    return msgspec.structs.replace(
        preprocess,
        height=preprocess.height + margin,
        width=preprocess.width + margin,
        resize=resize if preprocess.geometry == "resize_shorter_crop" else None,
        multiple=1,
    )


def write_weights(folder: Path, model: PixelModel) -> None:
    """The network's tensors as safetensors, without anything that could run."""
    save_state(model, folder / WEIGHTS)


def save_state(model: PixelModel, path: Path) -> None:
    """The network's state as safetensors at `path`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    path.write_bytes(safetensors.save(tensors))  # its own writer hides a full disk in an error of its own


def write_golden(
    folder: Path, model: PixelModel, images: tuple[bytes, ...], parent_logits: npt.NDArray[np.float32] | None
) -> None:
    """The golden photographs, what the model makes of them, and what its parent made of them (itself when it has none)."""
    pixels = np.stack([model.preprocess(image) for image in images])
    model.eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(pixels)).float().numpy()
    Golden(images, pixels, logits if parent_logits is None else parent_logits, logits).save(folder / GOLDEN)


def history(out: Path) -> tuple[Path, ...]:
    """The file with the figures of every epoch, which travels with the artifact that is written at `out`."""
    path = work_folder(out) / journal.METRICS
    return (path,) if path.is_file() else ()


def clear(out: Path) -> None:
    """Remove the state of the run that has written `out`."""
    shutil.rmtree(work_folder(out), ignore_errors=True)


def structure_of(model: PixelModel, spec: DetectorSpec) -> structure.Structure:
    """What the manifest stores of `model`'s widths: the difference to what its builder makes."""
    return structure.difference(model.net, models.rebuild(spec, {}))
