"""A training run that takes seconds: 16-pixel images whose fakes carry a checkerboard, and a network of two convolutions.

As a script it is that run in a process of its own, which tests kill or start twice under torchrun.
"""

import argparse
import hashlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import nn

from edgedet.artifact import Artifact, DetectorSpec
from edgedet.data.augment import Augment
from edgedet.data.index import Index, Row
from edgedet.models.pixels import PixelModel
from edgedet.models.variational import BayesianLinear
from edgedet.preprocess import Preprocess
from edgedet.training import loop, stage
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import group
from edgedet.training.losses import Supervised

SIDE = 16
CONFIG = TrainingConfig(
    epochs=5,
    batch_size=16,
    lr=0.01,
    weight_decay=0.01,
    warmup_epochs=0.5,
    clip_norm=1.0,
    ema=0.9,
    monitor="loss",
    augment=Augment(shift=2),
)
"""Forty steps on the 128 images of `images("train")`."""

EXACT = TrainingConfig(epochs=2, batch_size=16, lr=0.01, amp=False, monitor="loss", augment=Augment(shift=2))
"""Sixteen steps without rounding to bfloat16, which would hide differences between machines and between orders."""

RECIPE = stage.TrainRecipe(
    stage="train",
    detector=DetectorSpec(name="edge32", arguments={"width": 8}),
    preprocess={"height": SIDE, "width": SIDE},
    training=TrainingConfig(epochs=2, batch_size=16, lr=0.01, amp=False),
)


def pixels_of(label: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (16, 16, 3): noise, with a faint checkerboard for a fake."""
    checker = np.indices((SIDE, SIDE)).sum(axis=0) % 2
    return (rng.integers(80, 170, (SIDE, SIDE, 3)) + label * 30 * checker[..., None]).astype(np.uint8)


@dataclass(frozen=True)
class ArraySet:
    """An image set in memory."""

    index: Index
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, positions):
        return self.pixels[positions]


def images(split: str, count: int = 128, *, mislabelled: int = 0) -> ArraySet:
    """Half of them fakes; of each ten, `mislabelled` have the wrong label."""
    rng = np.random.default_rng(len(split))
    truth = [number % 2 for number in range(count)]
    labels = [1 - label if number % 10 < mislabelled else label for number, label in enumerate(truth)]
    rows = tuple(Row(path=f"{n}.png", label=label, split=split, sha256=f"{split} {n}") for n, label in enumerate(labels))
    return ArraySet(Index(Path("unused"), rows), np.stack([pixels_of(label, rng) for label in truth]))


def write_images(folder: Path, *, generators=("nearest", "bilinear"), **counts: int) -> Index:
    """The same kind of images on disk: as many a split as `counts` says."""
    rng, rows = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        for number in range(count):
            path = folder / f"{split}-{number}.png"
            Image.fromarray(pixels_of(number % 2, rng)).save(path)
            generator = generators[number // 2 % len(generators)] if number % 2 else "camera"
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append(Row(path=path.name, label=number % 2, generator=generator, split=split, sha256=digest))
    return Index(folder, tuple(rows))


class Net(nn.Module):
    """(B, 3, 16, 16) -> (B, 1), with everything that a resumed run could forget: BatchNorm, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
        )  # fmt: skip
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


class BayesianNet(Net):
    """The same with a last layer of which every batch draws a sample, and whose divergence is paid for."""

    def __init__(self) -> None:
        super().__init__()
        self.head = BayesianLinear(8)

    def penalty(self, images):
        return self.head.penalty(images)


NETS = {"plain": Net, "bayesian": BayesianNet}


class Mortal(Supervised):
    """Sends itself a signal in the forward pass of one step."""

    def __init__(self, model, config, at: int, kind: int) -> None:
        super().__init__(model, config)
        self.at, self.kind, self.calls = at, kind, 0

    def forward(self, batch):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), self.kind)
        return super().forward(batch)


def objective(config: TrainingConfig, net: str = "plain", *, at: int = 0, kind: int = signal.SIGTERM) -> Supervised:
    torch.manual_seed(config.seed)
    return Mortal(PixelModel(NETS[net](), Preprocess(height=SIDE, width=SIDE)), config, at, kind)


def run(
    work: Path, config: TrainingConfig, made: Supervised | None = None, val: ArraySet | None = None, *, resume=False, **options
):
    """:func:`edgedet.training.loop.fit` on the tiny set, on one thread."""
    torch.set_num_threads(1)
    task = loop.Task(config, images("train"), val or images("val", 64), work, **options)
    return loop.fit(made or objective(config), task, resume=resume)


def train_stage(data: Index, out: Path, recipe: stage.TrainRecipe = RECIPE, **options) -> Artifact:
    torch.set_num_threads(1)
    return stage.run(recipe, None, data, out, **options)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["fit", "stage"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", default="{}", help="changes to EXACT, as JSON")
    parser.add_argument("--net", choices=NETS, default="plain")
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--kind", type=int, default=signal.SIGTERM)
    parser.add_argument("--save-every", type=float, default=loop.SAVE_EVERY_SECONDS)
    parser.add_argument("--data", type=Path)
    asked = parser.parse_args()
    loop.SAVE_EVERY_SECONDS = asked.save_every
    if asked.what == "stage":
        print(train_stage(Index.load(asked.data), asked.out).digest)
        return
    config = msgspec.json.decode(asked.config, type=TrainingConfig)
    with group() as processes:
        run(asked.out, config, objective(config, asked.net, at=asked.at, kind=asked.kind), group=processes)


if __name__ == "__main__":
    main()
