"""What a teacher says of the training images, asked once and kept, and the objective that a student learns it by."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import models
from edgedet.artifact import Artifact
from edgedet.data.dataset import at_once, in_batches, open_set
from edgedet.data.index import Index
from edgedet.data.parallel import tracked
from edgedet.data.store import cache_root, writing_file
from edgedet.errors import TrainingError
from edgedet.models.patches import PatchGrid, grid_of, pooled
from edgedet.models.pixels import PixelModel
from edgedet.recipe import Config
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch, Objective, embedding_distance, label_loss, view_distance, watched

_BATCH = 256
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Distillation(Config, frozen=True, kw_only=True):
    """How much a student listens to its teacher, which was asked about every training image and its mirror image, undegraded.

    What the student sees may be degraded, recoloured or partly hidden (``training.augment``): it is taught what the teacher
    said of the image itself, since recompressing a photograph must not change what a detector makes of it. With
    ``training.consistency_weight`` it is taught on both views and held to give them the same answer.

    temperature: both logits are divided by it (Hinton, Vinyals, Dean, 2015); the gradient is scaled back by its square.
    logit_weight: share of the teacher's logits in the loss, the rest are labels.
    feature_weight: weight of matching the teacher's embedding (the classifier's input) through a learned projection, by
        cosine distance; after Romero et al., FitNets, ICLR 2015.
    patch_weight: share of the teacher's logits of patches in the loss (`edgedet.compress.patches`), the rest is all of the
        above; 1 for these alone, as Tiny-LaDeDa learns: then no label is read.
    """

    temperature: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    logit_weight: Share = 0.8
    feature_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    patch_weight: Share = 0.0

    def __post_init__(self) -> None:
        if self.patch_weight == 1 and self.feature_weight:
            raise ValueError("`patch_weight` is 1, which leaves nothing to `feature_weight`: lower it, or set the other to 0")


@dataclass(frozen=True)
class Answers:
    """A teacher's answers: logits float32 (N, views) and embeddings float16 (N, views, D); views: as is, mirrored.

    patches: where they were asked for, the logits of its patches, float16 (N, views, h, w). Of LaDeDa at 224 pixels these are
        27 x 27, 2.9 kB an image, a third of what its embeddings take. grid: which pixels they are of.
    key: of the teacher and of the images.
    """

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float16]
    key: str = ""
    patches: npt.NDArray[np.float16] | None = None
    grid: PatchGrid | None = None


class Listener(Objective):
    """A student between labels and a teacher whose answers are known for every image and its mirror image.

    With `config.consistency_weight` it hears them for an image and its degraded view alike, and pays for what it makes of the
    one and not of the other, as :class:`edgedet.training.losses.Consistent` does; of a model without `name` by its predictions.

    name: the detector whose classifier's input is matched with the teacher's embedding; None for a model without one, which
        can only listen to logits.

    Raises:
        TrainingError: embeddings are to be matched and `name` is None, or patches, which `edgedet.compress.patches` does.
    """

    hears_patches = False

    def __init__(
        self, model: nn.Module, name: str | None, answers: Answers, config: TrainingConfig, distillation: Distillation
    ) -> None:
        super().__init__(model)
        self.config, self.distillation = config, distillation
        self.answers = answers
        if distillation.patch_weight and not self.hears_patches:
            raise TrainingError("this student has no logits of patches to match: set distillation.patch_weight to 0")
        self.classifier_name = None if name is None else models.lookup(name).classifier
        # Without a weight there is no gradient, which distribution refuses: then there is no projection.
        self.project: nn.Module | None = None
        if distillation.feature_weight:
            if name is None or not isinstance(model, PixelModel):
                raise TrainingError("this student has no embedding to match: set distillation.feature_weight to 0")
            classifier = models.classifier_of(model.net, name)
            self.project = nn.Linear(classifier.in_features, answers.embeddings.shape[2], bias=False)

    @property
    def identity(self) -> str:
        """How it listens, and to whom."""
        return f" {self.distillation!r} {self.answers.key}"

    def loss(self, batch: Batch) -> Tensor:
        """What is heard of it and, with both views, of their difference; a scalar."""
        consistency = self.config.consistency_weight
        batch = batch.both() if consistency else batch
        with self.watched() as seen:
            found = self.answers_of(batch.pixels)
        logits, embeddings = found["logit"].float(), seen[0] if seen else None
        loss = self.heard(batch, {**found, "logit": logits}, embeddings)
        return loss + consistency * view_distance(logits, embeddings) if consistency else loss

    def answers_of(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the student says of `pixels`, its ``logit`` (B,) and what else is heard of it."""
        return {"logit": self.model(pixels)}

    def heard(self, batch: Batch, found: Mapping[str, Tensor], embeddings: Tensor | None) -> Tensor:
        """Labels, logits (B,) of what was `found` and, where they are matched, `embeddings` (B, ..., D), weighted; a scalar."""
        logits = found["logit"]
        theirs = self.theirs(batch, self.answers.logits)
        loss = (1 - self.distillation.logit_weight) * label_loss(logits, batch.labels, self.config)
        loss = loss + self.distillation.logit_weight * logit_distance(logits, theirs, self.distillation.temperature)
        if self.project is not None and embeddings is not None:
            wanted = self.theirs(batch, self.answers.embeddings)
            ours = self.project(pooled(embeddings)).float()
            loss = loss + self.distillation.feature_weight * embedding_distance(ours, wanted)
        return loss

    def theirs(self, batch: Batch, answers: npt.NDArray[Any]) -> Tensor:
        """What `answers` (N, views, ...) has for the images of `batch` as they are seen, float32 (B, ...)."""
        positions, views = batch.positions.cpu().numpy(), batch.flipped.cpu().numpy().astype(np.int64)
        return torch.from_numpy(answers[positions, views].astype(np.float32)).to(batch.labels.device)

    def watched(self) -> AbstractContextManager[list[Tensor]]:
        """The embeddings (B, ..., D) of the forward passes made inside the block, where they are matched."""
        if self.classifier_name is None or (self.project is None and not self.config.consistency_weight):
            return nullcontext([])
        assert isinstance(self.model, PixelModel)
        return watched(self.model.net.get_submodule(self.classifier_name))


def logit_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of the two-class softmax at temperature T, without the teacher's constant entropy.

    For one logit this is the binary cross entropy with soft targets; (B,), (B,) -> scalar. Source: Hinton et al., 2015.
    """
    soft = torch.sigmoid(teacher / temperature)
    return F.binary_cross_entropy_with_logits(student / temperature, soft) * temperature**2


def ask(teacher: Artifact, data: Index, *, amp: bool = True, patches: bool = False) -> Answers:
    """The answers of a checkpoint for the training images `data`, computed once and kept in the cache folder.

    They are keyed by the teacher's digest, the precision, and the content of the images, in order.

    patches: with the logits of its patches.

    Raises:
        ModelError: patches of a teacher that has none.
    """
    key = _key(teacher, data, f"{amp} patches" if patches else f"{amp}")
    path = cache_root() / "answers" / f"{key}.npz"
    found = _load(path, len(data), key)
    if found is None:
        found = replace(_answers(teacher, data, amp=amp, patches=patches), key=key)
        kept: dict[str, Any] = {"logits": found.logits, "embeddings": found.embeddings}
        if found.patches is not None and found.grid is not None:
            kept |= {"patches": found.patches, "grid": np.array([found.grid.field, found.grid.stride])}
        with writing_file(path) as file:
            np.savez(file, **kept)
    return found


def _load(path: Path, count: int, key: str) -> Answers | None:
    """What is kept at `path`; None when there is nothing, or a file that is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            answers = Answers(kept["logits"], kept["embeddings"], key)
            if "patches" in kept:
                answers = replace(answers, patches=kept["patches"], grid=PatchGrid(*map(int, kept["grid"])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return answers if len(answers.logits) == len(answers.embeddings) == count else None


def require_answers(config: TrainingConfig, distillation: Distillation) -> None:
    """Refuse augmentations of which nobody knows what to teach: what moves pixels, and for patches what hides them.

    Raises:
        TrainingError: names the way out.
    """
    if moving := config.augment.moving:
        raise TrainingError(
            "a teacher's answers are of the pixels where they are, or mirrored left to right: "
            f"leave {', '.join(moving)} out of training.augment"
        )
    if distillation.patch_weight and (hiding := config.augment.hiding):
        raise TrainingError(
            "a patch that is hidden says nothing of what the teacher saw in it: "
            f"leave {', '.join(hiding)} out of training.augment, or set distillation.patch_weight to 0"
        )


def _key(teacher: Artifact, data: Index, how: str) -> str:
    digest = hashlib.sha256(f"{teacher.digest} {how}".encode())
    for position in range(len(data)):
        digest.update(data.content(position).encode())
    return digest.hexdigest()[:32]


@torch.inference_mode()
def _answers(teacher: Artifact, data: Index, *, amp: bool, patches: bool) -> Answers:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.build(teacher).to(device)
    size = teacher.manifest.preprocess
    images = open_set(data, size)
    classifier = models.classifier_of(model.net, teacher.manifest.detector.name)
    grid = grid_of(model.net, teacher.manifest.detector.name) if patches else None
    logits = np.empty((len(images), 2), np.float32)
    embeddings = np.empty((len(images), 2, classifier.in_features), np.float16)
    maps = None if grid is None else np.empty((len(images), 2, grid.count(size.height), grid.count(size.width)), np.float16)
    kind = torch.bfloat16 if device.type == "cpu" else torch.float16
    total = math.ceil(len(images) / at_once(images, _BATCH))
    batches = tracked(in_batches(images, _BATCH), total=total, title="ask the teacher")
    with watched(classifier) as seen, torch.autocast(device.type, kind, enabled=amp):
        for positions, pixels in batches:
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
            for view, views_pixels in enumerate((batch, batch.flip(2))):
                found = model.outputs(views_pixels) if patches else {"logit": model(views_pixels)}
                logits[positions, view] = found["logit"].float().cpu().numpy()
                embeddings[positions, view] = pooled(seen.pop()).float().cpu().numpy()
                if maps is not None:
                    maps[positions, view] = found["patches"].float().cpu().numpy()
    return Answers(logits, embeddings, patches=maps, grid=grid)
