"""What a teacher says of the training images, asked once and kept, and the objective that a student learns it by."""

from __future__ import annotations

import hashlib
import math
import zipfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import models
from edgedet.artifact import Artifact
from edgedet.data.dataset import in_batches, open_set
from edgedet.data.index import Index
from edgedet.data.parallel import tracked
from edgedet.data.store import cache_root, writing_file
from edgedet.errors import TrainingError
from edgedet.models.pixels import PixelModel
from edgedet.recipe import Config
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch, Objective, embedding_distance, label_loss, watched

_BATCH = 256
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Distillation(Config, frozen=True, kw_only=True):
    """How much a student listens to its teacher.

    temperature: both logits are divided by it (Hinton, Vinyals, Dean, 2015); the gradient is scaled back by its square.
    logit_weight: share of the teacher's logits in the loss, the rest are labels.
    feature_weight: weight of matching the teacher's embedding (the classifier's input) through a learned projection, by
        cosine distance; after Romero et al., FitNets, ICLR 2015.
    """

    temperature: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    logit_weight: Share = 0.8
    feature_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.0


@dataclass(frozen=True)
class Answers:
    """A teacher's answers: logits float32 (N, views) and embeddings float16 (N, views, D); views: as is, mirrored.

    key: of the teacher and of the images.
    """

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float16]
    key: str = ""


class Listener(Objective):
    """A student between labels and a teacher whose answers are known for both views of every image.

    name: the detector whose classifier's input is matched with the teacher's embedding; None for a model without one, which
        can only listen to logits.

    Raises:
        TrainingError: embeddings are to be matched and `name` is None.
    """

    def __init__(
        self, model: nn.Module, name: str | None, answers: Answers, config: TrainingConfig, distillation: Distillation
    ) -> None:
        super().__init__(model)
        self.config, self.distillation = config, distillation
        self.answers = answers
        # Without a weight there is no gradient, which distribution refuses: then there is no projection.
        self.project: nn.Module | None = None
        if distillation.feature_weight:
            if name is None or not isinstance(model, PixelModel):
                raise TrainingError("this student has no embedding to match: set distillation.feature_weight to 0")
            self.classifier_name = models.lookup(name).classifier
            classifier = models.classifier_of(model.net, name)
            self.project = nn.Linear(classifier.in_features, answers.embeddings.shape[2], bias=False)

    @property
    def identity(self) -> str:
        """How it listens, and to whom."""
        return f" {self.distillation!r} {self.answers.key}"

    def loss(self, batch: Batch) -> Tensor:
        """Labels, logits and embeddings, weighted; a scalar."""
        positions, views = batch.positions.cpu().numpy(), batch.flipped.cpu().numpy().astype(np.int64)
        theirs = torch.from_numpy(self.answers.logits[positions, views]).to(batch.labels.device)
        with self._watched() as seen:
            logits = self.model(batch.pixels).float()
        loss = (1 - self.distillation.logit_weight) * label_loss(logits, batch.labels, self.config)
        loss = loss + self.distillation.logit_weight * logit_distance(logits, theirs, self.distillation.temperature)
        if self.project is not None:
            wanted = torch.from_numpy(self.answers.embeddings[positions, views].astype(np.float32)).to(batch.labels.device)
            loss = loss + self.distillation.feature_weight * embedding_distance(self.project(seen[0]).float(), wanted)
        return loss

    def _watched(self) -> AbstractContextManager[list[Tensor]]:
        if self.project is None:
            return nullcontext([])
        assert isinstance(self.model, PixelModel)
        return watched(self.model.net.get_submodule(self.classifier_name))


def logit_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of the two-class softmax at temperature T, without the teacher's constant entropy.

    For one logit this is the binary cross entropy with soft targets; (B,), (B,) -> scalar. Source: Hinton et al., 2015.
    """
    soft = torch.sigmoid(teacher / temperature)
    return F.binary_cross_entropy_with_logits(student / temperature, soft) * temperature**2


def ask(teacher: Artifact, data: Index, *, amp: bool = True) -> Answers:
    """The answers of a checkpoint for the training images `data`, computed once and kept in the cache folder.

    They are keyed by the teacher's digest, the precision, and the content of the images, in order.
    """
    key = _key(teacher, data, amp)
    path = cache_root() / "answers" / f"{key}.npz"
    found = _load(path, len(data), key)
    if found is None:
        found = Answers(*_answers(teacher, data, amp), key)
        with writing_file(path) as file:
            np.savez(file, logits=found.logits, embeddings=found.embeddings)
    return found


def _load(path: Path, count: int, key: str) -> Answers | None:
    """What is kept at `path`; None when there is nothing, or a file that is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            answers = Answers(kept["logits"], kept["embeddings"], key)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return answers if len(answers.logits) == len(answers.embeddings) == count else None


def require_flips_only(config: TrainingConfig) -> None:
    """Refuse augmentations for which no answer is kept.

    Raises:
        TrainingError: names the way out.
    """
    if beyond := config.augment.beyond_flips:
        raise TrainingError(
            "a teacher's answers are kept for an image and its mirror image only: "
            f"leave {', '.join(beyond)} out of training.augment"
        )


def _key(teacher: Artifact, data: Index, amp: bool) -> str:
    digest = hashlib.sha256(f"{teacher.digest} {amp}".encode())
    for position in range(len(data)):
        digest.update(data.content(position).encode())
    return digest.hexdigest()[:32]


@torch.inference_mode()
def _answers(teacher: Artifact, data: Index, amp: bool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float16]]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.build(teacher).to(device)
    images = open_set(data, teacher.manifest.preprocess)
    classifier = models.classifier_of(model.net, teacher.manifest.detector.name)
    logits = np.empty((len(images), 2), np.float32)
    embeddings = np.empty((len(images), 2, classifier.in_features), np.float16)
    kind = torch.bfloat16 if device.type == "cpu" else torch.float16
    batches = tracked(in_batches(images, _BATCH), total=math.ceil(len(images) / _BATCH), title="ask the teacher")
    with watched(classifier) as seen, torch.autocast(device.type, kind, enabled=amp):
        for positions, pixels in batches:
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
            for view, views_pixels in enumerate((batch, batch.flip(2))):
                logits[positions, view] = model(views_pixels).float().cpu().numpy()
                embeddings[positions, view] = seen.pop().float().cpu().numpy()
    return logits, embeddings
