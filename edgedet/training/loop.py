"""The training loop: the only one.

Supervised training, distillation, fine-tuning after pruning and quantization-aware training all call :func:`fit` with another
objective. Everything random is a function of (seed, epoch, micro-batch), so a run that is stopped at any step and resumed ends
with the same bits, and two processes end where one that accumulates two micro-batches ends.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet import metrics
from edgedet.data.dataset import ImageSet, in_batches
from edgedet.data.parallel import prefetch
from edgedet.errors import TrainingError
from edgedet.training import checkpoint
from edgedet.training.batches import MicroBatch, Plan
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import Group
from edgedet.training.ema import Ema
from edgedet.training.journal import Journal
from edgedet.training.losses import Batch, Objective
from edgedet.training.schedules import learning_rate

SAVE_EVERY_SECONDS = 60.0
EVALUATION_BATCH = 256
State = dict[str, Tensor]


class Interrupted(TrainingError):
    """The run was stopped by a signal; its state is on disk."""

    exit_code = 130


@dataclass
class FitResult:
    """The best weights by validation, where they came from, and the validation figures of every epoch."""

    state: State
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """One training: its settings, its images, its processes, and the folder for the resumable state, the log and the figures.

    The model's input has the size of the images in `val`; those in `train` may be larger by what ``augment.margin`` crops.
    """

    config: TrainingConfig
    train: ImageSet
    val: ImageSet
    work: Path
    group: Group = field(default_factory=Group)
    title: str = "train"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        height, width = self.val.gather(np.array([0])).shape[1:3]
        return height, width


def fit(objective: Objective, task: Task, *, resume: bool = False) -> FitResult:
    """Train `objective.model` as `task` says and leave its best weights, by ``config.monitor`` on ``task.val``, in it.

    Raises:
        Interrupted: SIGINT or SIGTERM; run again with `resume`.
        TrainingError: the loss is not a number, the state cannot be written or does not belong to this configuration.
    """
    run = _Run(objective, task)
    if resume:
        run.restore()
    run.group.barrier()
    with Journal(task.work, total=run.total_steps, leads=run.group.leads, title=task.title) as journal, _stop_signals() as stop:
        journal.forget_after(run.step)
        result = run.all_epochs(journal, stop)
    # The device and the synchronised BatchNorm of training stay here: what comes after runs on the CPU.
    objective.to("cpu").model.load_state_dict(result.state)
    return result


class _Run:
    """The mutable state of one run."""

    def __init__(self, objective: Objective, task: Task) -> None:
        task.work.mkdir(parents=True, exist_ok=True)
        config, group = task.config, task.group
        self.config, self.group, self.work, self.size = config, group, task.work, task.size
        self.train, self.val = task.train, task.val
        self.labels = task.train.index.labels.astype(np.float32)
        self.plan = Plan(len(task.train), config, group.world, [row.pair for row in task.train.index.rows])
        objective.images = len(task.train)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.objective = group.synchronised(objective).to(group.device, memory_format=layout)  # type: ignore[call-overload]
        self.module = group.wrap(self.objective)
        self.optimizer = make_optimizer(self.objective, config)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=config.amp and group.device.type == "cuda")
        self.ema = Ema(self.objective.model, config.ema) if config.ema else None
        self.step = 0
        self.best: FitResult | None = None
        self.history: list[dict[str, float]] = []
        self.saved = time.monotonic()

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.plan.steps_per_epoch

    def all_epochs(self, journal: Journal, stop: _Stop) -> FitResult:
        while len(self.history) < self.config.epochs and not self.out_of_patience():
            # Every validated epoch has its line: a run that was stopped between the two takes up at the validation.
            epoch = len(self.history)
            first_step = self.step - epoch * self.plan.steps_per_epoch
            if first_step < self.plan.steps_per_epoch:
                self.one_epoch(epoch, first_step, journal, stop)
            self.validate(epoch, journal)
            self.save()
        if self.best is None:
            raise checkpoint.other_run(self.work)
        self.best.history = self.history
        return self.best

    def one_epoch(self, epoch: int, first_step: int, journal: Journal, stop: _Stop) -> None:
        self.objective.train()
        started, losses = time.perf_counter(), torch.zeros((), device=self.group.device)
        batches = prefetch(self.load, self.plan.epoch(epoch, self.group.rank, first_step))
        with contextlib.closing(batches):
            for in_epoch in range(first_step, self.plan.steps_per_epoch):
                loss = self.one_step(batches)
                losses += loss
                if not self.step % 16 or self.logs_step():
                    self.report(epoch, in_epoch - first_step + 1, started, loss, journal)
                self.keep_safe(stop)
        mean = float(self.group.mean(losses).item()) / (self.plan.steps_per_epoch - first_step)
        self.require_finite(mean, epoch)
        journal.record(
            event="epoch", epoch=epoch, step=self.step, train_loss=mean, seconds=round(time.perf_counter() - started, 2)
        )

    def one_step(self, batches: Iterator[tuple[Batch, tuple[int, int, int]]]) -> Tensor:
        """Accumulate the gradients of the step's micro-batches and update; returns the mean loss."""
        rate = learning_rate(self.config, self.step, self.plan.steps_per_epoch)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        total = torch.zeros((), device=self.group.device)
        for part in range(self.config.accumulate):
            batch, seed = next(batches)
            torch.manual_seed(_mix(seed))
            last = part == self.config.accumulate - 1
            with contextlib.nullcontext() if last else self.no_sync(), self.autocast():
                loss = self.module(batch.to(self.group.device)) / self.config.accumulate
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.update()
        self.step += 1
        return total

    def update(self) -> None:
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.objective.model)

    def load(self, item: MicroBatch) -> tuple[Batch, tuple[int, int, int]]:
        """Read and augment one micro-batch; runs in a thread."""
        order = np.sort(item.positions) if self.config.order == "shuffle" else item.positions
        pixels, flipped = self.config.augment(self.train.gather(order), *self.size, np.random.default_rng(item.seed))
        return Batch(
            torch.from_numpy(pixels), torch.from_numpy(self.labels[order]), torch.from_numpy(order), torch.from_numpy(flipped)
        ), item.seed

    def validate(self, epoch: int, journal: Journal) -> None:
        self.average_statistics()
        model = self.ema.model if self.ema else self.objective.model
        figures = validation_figures(logits_of(model, self.val, self.group), self.val.index.labels)
        self.history.append({"epoch": float(epoch), **figures})
        score = -figures["loss"] if self.config.monitor == "loss" else figures[self.config.monitor]
        best = self.best is None or score > self.score_of(self.best.best_epoch)
        if best:
            self.best = FitResult(copy.deepcopy({k: v.cpu() for k, v in model.state_dict().items()}), epoch)
        journal.record(event="validation", epoch=epoch, step=self.step, best=best, **figures)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        journal.say(f"epoch {epoch + 1}/{self.config.epochs}: {shown}{'  (best)' if best else ''}")

    def average_statistics(self) -> None:
        self.group.average_buffers(self.objective.model)
        if self.ema:
            self.group.average_buffers(self.ema.model)

    def score_of(self, epoch: int) -> float:
        figures = next(line for line in self.history if line["epoch"] == epoch)
        return -figures["loss"] if self.config.monitor == "loss" else figures[self.config.monitor]

    def out_of_patience(self) -> bool:
        if self.config.patience is None or self.best is None:
            return False
        return self.history[-1]["epoch"] - self.best.best_epoch >= self.config.patience

    def logs_step(self) -> bool:
        return bool(self.config.log_every) and self.step % self.config.log_every == 0

    def report(self, epoch: int, done: int, started: float, loss: Tensor, journal: Journal) -> None:
        value = float(loss.item())
        self.require_finite(value, epoch)
        if self.logs_step():
            journal.record(event="step", epoch=epoch, step=self.step, train_loss=value)
        rate = done * self.config.batch_size / (time.perf_counter() - started)
        journal.step(self.step, f"epoch {epoch + 1}/{self.config.epochs}  loss {value:.4f}  {rate:,.0f} images/s")

    def require_finite(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.step} (epoch {epoch + 1}): lower training.lr, "
                "set training.clip_norm, or switch training.amp off"
            )

    def keep_safe(self, stop: _Stop) -> None:
        """Save now and then, and at once when a signal asked to stop."""
        if self.group.any(stop.asked):
            self.save()
            raise Interrupted(f"stopped at step {self.step} of {self.total_steps}; run the same command with --resume to go on")
        if time.monotonic() - self.saved > SAVE_EVERY_SECONDS:
            self.save(in_epoch=True)

    def save(self, *, in_epoch: bool = False) -> None:
        if in_epoch and self.group.world > 1:
            return  # processes disagree on the time; between epochs they are in step
        self.saved = time.monotonic()
        self.average_statistics()
        if self.group.leads:
            checkpoint.save(self.state(), self.work)
        self.group.barrier()

    def state(self) -> dict[str, Any]:
        return {
            "config": self.fingerprint(),
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": (self.ema.steps, self.ema.model.state_dict()) if self.ema else None,
            "best": (self.best.best_epoch, self.best.state) if self.best else None,
            "history": self.history,
        }

    def restore(self) -> None:
        state = checkpoint.load(self.work)
        if state is None:
            return
        if state["config"] != self.fingerprint():
            raise checkpoint.other_run(self.work)
        try:
            self.objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            raise checkpoint.other_run(self.work) from error
        self.step, self.history = state["step"], state["history"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema and state["ema"]:
            self.ema.steps = state["ema"][0]
            self.ema.model.load_state_dict(state["ema"][1])
        if state["best"]:
            self.best = FitResult(state["best"][1], state["best"][0])

    def fingerprint(self) -> str:
        return f"{self.config!r} {self.train.index.digest}{self.objective.identity}"

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        wrapped = self.module
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            return wrapped.no_sync()
        return contextlib.nullcontext()

    def autocast(self) -> torch.autocast:
        kind = self.group.device.type
        return torch.autocast(kind, torch.float16 if kind == "cuda" else torch.bfloat16, enabled=self.config.amp)


def make_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The configured optimiser over the parameters that are trained."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise TrainingError("nothing to train: every parameter is frozen")
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, config.lr, betas=config.betas, weight_decay=config.weight_decay)


@torch.inference_mode()
def logits_of(model: nn.Module, images: ImageSet, group: Group | None = None) -> npt.NDArray[np.float32]:
    """The logits of `model` in evaluation mode for all `images`, float32 (N,), shared out over processes."""
    group = group or Group()
    was_training = model.training
    model.eval()
    out = torch.zeros(len(images), device=group.device)
    for positions, pixels in in_batches(images, EVALUATION_BATCH, rank=group.rank, world=group.world):
        out[torch.from_numpy(positions)] = model(torch.from_numpy(pixels).to(group.device)).float()
    model.train(was_training)
    # Each process has filled its own places and left zeros elsewhere.
    return group.sum(out).cpu().numpy()


def validation_figures(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """What selects the best epoch: loss (nats), balanced accuracy at logit 0, and AUC."""
    loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits).double(), torch.from_numpy(labels).double())
    return {
        "loss": float(loss.item()),
        "balanced_accuracy": metrics.balanced_accuracy(logits > 0, labels),
        "auc": metrics.roc_auc(logits, labels),
    }


class _Stop:
    asked = False


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """SIGINT and SIGTERM set a flag instead of killing a step halfway; outside the main thread they are left alone."""
    stop = _Stop()

    def ask(*_: object) -> None:
        stop.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mix(seed: tuple[int, int, int]) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
