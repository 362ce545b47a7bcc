"""The training loop: the only one.

Supervised training, distillation, fine-tuning after pruning and quantization-aware training all call :func:`fit` with another
objective. Everything random is a function of (seed, epoch, micro-batch), so a run that is stopped at any step and resumed ends
with the same bits, and two processes end where one that accumulates two micro-batches ends.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedet.data.dataset import ImageSet
from edgedet.data.parallel import prefetch
from edgedet.errors import TrainingError
from edgedet.training import checkpoint, freezing
from edgedet.training.batches import MicroBatch, Plan
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import Group
from edgedet.training.ema import Ema
from edgedet.training.journal import Journal
from edgedet.training.losses import Batch, Objective
from edgedet.training.optimizer import make_optimizer, set_rate
from edgedet.training.schedules import Current, current, first, learning_rate, score
from edgedet.training.signals import Stop, stop_signals
from edgedet.training.validation import logits_of, validation_figures

SAVE_EVERY_SECONDS = 60.0
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

    subject: what is trained and on which pixels, in words; a run is resumed only with the same.

    The model's input has the size of the images in `val`; those in `train` may be larger by what ``augment.margin`` crops.
    """

    config: TrainingConfig
    train: ImageSet
    val: ImageSet
    work: Path
    group: Group = field(default_factory=Group)
    title: str = "train"
    subject: str = ""

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
    with Journal(task.work, total=run.total_steps, leads=run.group.leads, title=task.title) as journal, stop_signals() as stop:
        journal.forget_after(run.step)
        result = run.all_epochs(journal, stop)
    freezing.thaw(objective.model, run.learning)
    # The device and the synchronised BatchNorm of training stay here: what comes after runs on the CPU.
    objective.to("cpu").model.load_state_dict(result.state)
    return result


class _Run:
    """The mutable state of one run."""

    def __init__(self, objective: Objective, task: Task) -> None:
        task.work.mkdir(parents=True, exist_ok=True)
        config, group = task.config, task.group
        self.config, self.group, self.work, self.size = config, group, task.work, task.size
        self.train, self.val, self.subject = task.train, task.val, task.subject
        index = task.train.index
        self.labels = index.labels.astype(np.float32) if objective.needs_labels else index.labels_or_nan
        self.plan = Plan(len(task.train), config, group.world, [row.pair for row in index.rows])
        objective.images = len(task.train)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.objective = group.synchronised(objective).to(group.device, memory_format=layout)  # type: ignore[call-overload]
        freezing.check(self.objective.model, config)
        self.learning = freezing.trained(self.objective.model)
        self.step = 0
        self.best: FitResult | None = None
        self.history: list[dict[str, float]] = []
        self.saved = time.monotonic()
        self.enter(first(config))

    @property
    def epochs(self) -> int:
        """Of all phases, if patience lasts."""
        return sum(settings.epochs for settings in self.config.by_phase)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.plan.steps_per_epoch

    def enter(self, phase: Current) -> None:
        """Begin `phase` from the best weights so far, with a fresh optimiser over what it trains."""
        model, self.entered = self.objective.model, phase
        if self.best:
            model.load_state_dict(self.best.state)
        self.frozen = freezing.freeze(model, self.learning, self.config, phase.phase)
        self.module = self.group.wrap(self.objective)
        self.optimizer = make_optimizer(self.objective, phase.config)
        on_cuda = self.group.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.group.device.type, enabled=self.config.amp and on_cuda)
        self.ema = Ema(model, self.config.ema) if self.config.ema else None

    def all_epochs(self, journal: Journal, stop: Stop) -> FitResult:
        while phase := current(self.config, self.history):
            if phase.number != self.entered.number:
                self.enter(phase)
                begun = f"phase {phase.number + 1}/{len(self.config.phases)}"
                journal.say(f"{begun} begins from the weights of epoch {self.best.best_epoch + 1 if self.best else 0}")
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

    def one_epoch(self, epoch: int, first_step: int, journal: Journal, stop: Stop) -> None:
        freezing.train_mode(self.objective, self.frozen)
        started, losses = time.perf_counter(), torch.zeros((), device=self.group.device)
        batches = prefetch(self.load, self.plan.epoch(epoch, self.group.rank, first_step))
        with contextlib.closing(batches):
            for in_epoch in range(first_step, self.plan.steps_per_epoch):
                loss = self.one_step(batches)
                losses += loss
                if not self.step % 16 or self.logs_step():
                    self.report(epoch, in_epoch - first_step + 1, started, loss, journal)
                if self.config.validate_every and self.step % self.config.validate_every == 0:
                    journal.record(event="validation_step", epoch=epoch, step=self.step, **self.figures())
                    freezing.train_mode(self.objective, self.frozen)
                self.keep_safe(stop)
        mean = float(self.group.mean(losses).item()) / (self.plan.steps_per_epoch - first_step)
        self.require_finite(mean, epoch)
        journal.record(
            event="epoch", epoch=epoch, step=self.step, train_loss=mean, seconds=round(time.perf_counter() - started, 2)
        )

    def one_step(self, batches: Iterator[tuple[Batch, tuple[int, int, int]]]) -> Tensor:
        """Accumulate the gradients of the step's micro-batches and update; returns the mean loss."""
        set_rate(self.optimizer, self.rate())
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

    def rate(self) -> float:
        """The learning rate of the next step."""
        phase, each = self.entered, self.plan.steps_per_epoch
        return learning_rate(phase.config, self.step - phase.first_epoch * each, each, self.history[phase.first_epoch :])

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
        pixels, degraded, flipped = self.config.augment.views(
            self.train.gather(order),
            *self.size,
            np.random.default_rng(item.seed),
            paired=self.config.same_augmentation_in_pairs,
        )
        both = self.config.consistency_weight > 0
        return Batch(
            torch.from_numpy(pixels if both else degraded),
            torch.from_numpy(self.labels[order]),
            torch.from_numpy(order),
            torch.from_numpy(flipped),
            torch.from_numpy(degraded) if both else None,
        ), item.seed

    def validate(self, epoch: int, journal: Journal) -> None:
        figures = self.figures()
        self.history.append({"epoch": float(epoch), **figures})
        monitor = self.config.monitor
        best = self.best is None or score(figures, monitor) > score(self.history[self.best.best_epoch], monitor)
        if best:
            self.best = FitResult(copy.deepcopy({k: v.cpu() for k, v in self.validated.state_dict().items()}), epoch)
        journal.record(event="validation", epoch=epoch, step=self.step, best=best, **figures)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        journal.say(f"epoch {epoch + 1}/{self.epochs}: {shown}{'  (best)' if best else ''}")

    @property
    def validated(self) -> nn.Module:
        """The model that is validated and kept."""
        return self.ema.model if self.ema else self.objective.model

    def figures(self) -> dict[str, float]:
        """Of the validation split, as the weights are now."""
        self.average_statistics()
        return validation_figures(logits_of(self.validated, self.val, self.group), self.val.index.labels)

    def average_statistics(self) -> None:
        for model in (self.objective.model, *([self.ema.model] if self.ema else [])):
            self.group.average_buffers(freezing.network_of(model), keep=self.frozen.norms)

    def logs_step(self) -> bool:
        return bool(self.config.log_every) and self.step % self.config.log_every == 0

    def report(self, epoch: int, done: int, started: float, loss: Tensor, journal: Journal) -> None:
        value = float(loss.item())
        self.require_finite(value, epoch)
        if self.logs_step():
            journal.record(event="step", epoch=epoch, step=self.step, train_loss=value)
        rate = done * self.config.batch_size / (time.perf_counter() - started)
        journal.step(self.step, f"epoch {epoch + 1}/{self.epochs}  loss {value:.4f}  {rate:,.0f} images/s")

    def require_finite(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.step} (epoch {epoch + 1}): lower training.lr, "
                "set training.clip_norm, or switch training.amp off"
            )

    def keep_safe(self, stop: Stop) -> None:
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
            "subject": self.subject,
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
        # A state from before there were subjects has none.
        if state["config"] != self.fingerprint() or state.get("subject", self.subject) != self.subject:
            raise checkpoint.other_run(self.work)
        try:
            self.objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            raise checkpoint.other_run(self.work) from error
        self.step, self.history = state["step"], state["history"]
        if state["best"]:
            self.best = FitResult(state["best"][1], state["best"][0])
        phase = current(self.config, self.history)
        if phase is None or (self.history and self.step == phase.first_epoch * self.plan.steps_per_epoch):
            return  # the state is that of a phase that is over
        if phase.number != self.entered.number:
            self.enter(phase)
            self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema and state["ema"]:
            self.ema.steps = state["ema"][0]
            self.ema.model.load_state_dict(state["ema"][1])

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


def _mix(seed: tuple[int, int, int]) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
