"""What a teacher says of the training images, asked once and kept."""

from __future__ import annotations

import hashlib
import math
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgedet import models
from edgedet.artifact import Artifact
from edgedet.compress.distances import attention_map
from edgedet.data.dataset import at_once, in_batches, open_set
from edgedet.data.index import Index
from edgedet.data.parallel import tracked
from edgedet.data.store import cache_root, writing_file
from edgedet.errors import ModelError
from edgedet.models.patches import PatchGrid, grid_of, pooled
from edgedet.training.losses import watched

_BATCH = 256


@dataclass(frozen=True)
class Answers:
    """What a teacher answered, or several together: logits float32 (N, views) and embeddings float16 (N, views, D).

    views: the image as it is, mirrored.
    patches: where they were asked for, the logits of its patches, float16 (N, views, h, w). Of LaDeDa at 224 pixels these are
        27 x 27, 2.9 kB an image, a third of what its embeddings take. grid: which pixels they are of.
    attention: where they were asked for, its attention maps, float16 (N, views, h, w), of its last feature map alone: of a
        ResNet at 224 pixels 7 x 7, 0.2 kB an image.
    key: of the teachers and of the images.
    """

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float16]
    key: str = ""
    patches: npt.NDArray[np.float16] | None = None
    grid: PatchGrid | None = None
    attention: npt.NDArray[np.float16] | None = None


def ask(teacher: Artifact, data: Index, *, amp: bool = True, patches: bool = False, attention: bool = False) -> Answers:
    """The answers of a checkpoint for the training images `data`, computed once and kept in the cache folder.

    They are keyed by the teacher's digest, the precision, and the content of the images, in order.

    patches: with the logits of its patches; attention: with its attention maps.

    Raises:
        ModelError: patches or attention of a teacher that has none.
    """
    key = _key(teacher, data, " ".join([f"{amp}", *(["patches"] if patches else []), *(["attention"] if attention else [])]))
    path = cache_root() / "answers" / f"{key}.npz"
    found = _load(path, len(data), key)
    if found is None:
        found = replace(_answers(teacher, data, amp=amp, patches=patches, attention=attention), key=key)
        kept: dict[str, Any] = {"logits": found.logits, "embeddings": found.embeddings}
        if found.patches is not None and found.grid is not None:
            kept |= {"patches": found.patches, "grid": np.array([found.grid.field, found.grid.stride])}
        kept |= {} if found.attention is None else {"attention": found.attention}
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
            if "attention" in kept:
                answers = replace(answers, attention=kept["attention"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return answers if len(answers.logits) == len(answers.embeddings) == count else None


def _key(teacher: Artifact, data: Index, how: str) -> str:
    digest = hashlib.sha256(f"{teacher.digest} {how}".encode())
    for position in range(len(data)):
        digest.update(data.content(position).encode())
    return digest.hexdigest()[:32]


def features_of(name: str) -> str:
    """The module of the detector `name` whose output is its last feature map.

    Raises:
        ModelError: it has none.
    """
    found = models.lookup(name).features
    if found is None:
        raise ModelError(f"{name} has no feature map that is averaged, so no attention: set distillation.attention_weight to 0")
    return found


@torch.inference_mode()
def _answers(teacher: Artifact, data: Index, *, amp: bool, patches: bool, attention: bool) -> Answers:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, name = models.build(teacher).to(device), teacher.manifest.detector.name
    images = open_set(data, teacher.manifest.preprocess)
    grid = grid_of(model.net, name) if patches else None
    features = model.net.get_submodule(features_of(name)) if attention else None
    kind = torch.bfloat16 if device.type == "cpu" else torch.float16
    total = math.ceil(len(images) / at_once(images, _BATCH))
    batches = tracked(in_batches(images, _BATCH), total=total, title="ask the teacher")
    kept: dict[str, npt.NDArray[Any]] = {}

    def keep(what: str, values: Tensor, positions: npt.NDArray[np.int64], view: int, dtype: npt.DTypeLike = np.float16) -> None:
        if what not in kept:
            kept[what] = np.empty((len(images), 2, *values.shape[1:]), dtype)
        kept[what][positions, view] = values.float().cpu().numpy()

    with ExitStack() as stack:
        seen = stack.enter_context(watched(models.classifier_of(model.net, name)))
        looked = stack.enter_context(watched(features, outputs=True)) if features is not None else []
        stack.enter_context(torch.autocast(device.type, kind, enabled=amp))
        for positions, pixels in batches:
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
            for view, views_pixels in enumerate((batch, batch.flip(2))):
                found = model.outputs(views_pixels) if patches else {"logit": model(views_pixels)}
                keep("logits", found["logit"], positions, view, np.float32)
                keep("embeddings", pooled(seen.pop()), positions, view)
                if patches:
                    keep("patches", found["patches"], positions, view)
                if looked:
                    keep("attention", attention_map(looked.pop()), positions, view)
    maps, attended = kept.get("patches"), kept.get("attention")
    return Answers(kept["logits"], kept["embeddings"], patches=maps, grid=grid, attention=attended)
