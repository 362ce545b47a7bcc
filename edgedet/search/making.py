"""How a candidate is made in one round: by the stages that there are, with the round's epochs; what is there is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from edgedet import models, recipe
from edgedet.artifact import Artifact
from edgedet.compress import distill, prune, qat
from edgedet.compress.cost import latency
from edgedet.compress.distill import DistillRecipe
from edgedet.compress.prune import PruneRecipe
from edgedet.compress.qat import QatRecipe
from edgedet.data.index import Index
from edgedet.data.store import writing_file
from edgedet.errors import DataError, NothingToPrune
from edgedet.export import stage as export
from edgedet.export.stage import ExportConfig
from edgedet.models.work import of_model
from edgedet.recipe import Config
from edgedet.search.space import Candidate, CompressRecipe, Trunk, trunks
from edgedet.target import Target
from edgedet.work import Work

SECONDS = ".seconds"
"""Behind the name of an artifact: the file that says how long it took to make."""


R = TypeVar("R", DistillRecipe, PruneRecipe, QatRecipe)


@dataclass(frozen=True)
class Maker:
    """What stays the same over all candidates.

    folder: where their artifacts are; target: whose graphs they are, under the `name` that was given.
    """

    config: CompressRecipe
    teacher: Artifact
    data: Index
    folder: Path
    target: Target
    name: str

    def students(self) -> list[Work]:
        """The work of every student at its published input.

        Raises:
            RecipeError: its recipe is not valid. ModelError: it does not take its width.
        """
        specs = {trunk.student: self.student_recipe(trunk, 0).detector for trunk in trunks(self.config)}
        return [of_model(models.weightless(spec)) for spec in specs.values()]

    def recipes(self) -> list[Config]:
        """Every recipe of a stage as the last round has it, which trains all epochs: with another it is another search."""
        last = self.config.rungs - 1
        found: list[Config] = [self.student_recipe(trunk, last) for trunk in trunks(self.config)]
        found += [self.prune_recipe(0.5, last)] if self.config.prune else []
        return found + ([self.qat_recipe(last)] if self.config.qat else [])

    def path(self, candidate: Candidate, rung: int) -> Path:
        """Of its graph."""
        return self._at(candidate.trunk, rung) / f"keep{candidate.trunk.keep:g}-{candidate.precision}"

    def student(self, trunk: Trunk, rung: int) -> Path:
        """Of its student's checkpoint."""
        return self._at(trunk, rung) / "student"

    def checkpoint(self, trunk: Trunk, rung: int) -> Path:
        """Of the checkpoint that its graphs are made of."""
        return self._at(trunk, rung) / f"keep{trunk.keep:g}" if trunk.keep < 1 else self.student(trunk, rung)

    def make(self, candidate: Candidate, rung: int) -> Artifact:
        """The candidate's graph and all that it is made from; an interrupted training goes on.

        Raises:
            EdgedetError: a stage refuses; says why. Interrupted: stopped by a signal.
        """
        trunk, out = candidate.trunk, self.path(candidate, rung)
        if candidate.precision == "qat":
            trained = self.trunk(trunk, rung)
            config = self.qat_recipe(rung)
            return _timed(
                out, lambda: qat.run(config, trained, self.data, out, target=self.name, teachers=(self.teacher,), resume=True)
            )
        trained = self.trunk(trunk, rung)
        exported = ExportConfig(precision=candidate.precision, target=self.name)
        return _timed(out, lambda: export.run(exported, trained, self.data, out))

    def trunk(self, trunk: Trunk, rung: int) -> Artifact:
        """The trained network: the student, pruned where less is to be kept.

        Raises:
            NothingToPrune: as the stage does, or another trunk of this round is the same network.
        """
        student, config = self.student(trunk, rung), self.student_recipe(trunk, rung)
        trained = _timed(student, lambda: distill.run(config, self.teacher, self.data, student, resume=True))
        if trunk.keep == 1:
            return trained
        out, pruning = self.checkpoint(trunk, rung), self.prune_recipe(trunk.keep, rung)
        if not out.exists() and (same := self.same(trunk, rung, trained)):
            raise NothingToPrune(f"pruning to {trunk.keep:g} leaves the network that {same.name} is: widths go in steps")
        cost = latency if pruning.cost == "latency" else None
        return _timed(
            out, lambda: prune.run(pruning, trained, self.data, out, teachers=(self.teacher,), cost=cost, resume=True)
        )

    def same(self, trunk: Trunk, rung: int, trained: Artifact) -> Trunk | None:
        """The trunk that was pruned in this round to the widths that `trunk` would have, of the same student `trained`."""
        others = (each for each in trunks(self.config) if each.student == trunk.student and each.keep < 1)
        made = {each: self.checkpoint(each, rung) for each in others if self.checkpoint(each, rung).exists()}
        wanted = prune.planned(self.prune_recipe(trunk.keep, rung), trained) if made else None
        if wanted is None:
            return None
        return next((each for each, path in made.items() if Artifact.load(path).manifest.structure == wanted), None)

    def student_recipe(self, trunk: Trunk, rung: int) -> DistillRecipe:
        """Its recipe at its width, with the round's epochs."""
        found = self._recipe(trunk.recipe, DistillRecipe, rung)
        return msgspec.structs.replace(found, detector=trunk.detector(found.detector))

    def prune_recipe(self, keep: float, rung: int) -> PruneRecipe:
        """The recipe that prunes to `keep`, with the round's epochs after each step."""
        return self._recipe(self.config.prune, PruneRecipe, rung, f"keep={keep}")

    def qat_recipe(self, rung: int) -> QatRecipe:
        """The recipe that trains rounding, with the round's epochs."""
        return self._recipe(self.config.qat, QatRecipe, rung)

    def paths(self, trunk: Trunk, rung: int, candidates: Sequence[Candidate]) -> list[Path]:
        """Of everything of a trunk in a round: the student, the checkpoint when it is pruned, the graphs."""
        pruned = [self.checkpoint(trunk, rung)] if trunk.keep < 1 else []
        return [self.student(trunk, rung), *pruned, *(self.path(each, rung) for each in candidates)]

    def _recipe(self, name: str, into: type[R], rung: int, *overrides: str) -> R:
        """The recipe called `name`, with the round's share of its own epochs."""
        epochs = self.config.epochs(recipe.load("train", name, into).training.epochs, rung)
        return recipe.load("train", name, into, [*overrides, f"training.epochs={epochs}"])

    def _at(self, trunk: Trunk, rung: int) -> Path:
        return self.folder / f"round{rung}" / trunk.student


def seconds_of(path: Path) -> float:
    """How long the artifact at `path` took to make; 0 when nobody knows."""
    try:
        return float(path.with_name(path.name + SECONDS).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0


def _timed(path: Path, make: Callable[[], Artifact]) -> Artifact:
    """The artifact at `path`, made when it is not there, and then with the time that this took beside it."""
    if path.exists():
        return Artifact.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with clocked(path):
        return make()


@contextlib.contextmanager
def clocked(path: Path) -> Iterator[None]:
    """Add what this takes to the seconds of `path`, also when it fails or is interrupted, and goes on later.

    Raises:
        DataError: they cannot be written.
    """
    start = time.monotonic()
    try:
        yield
    except BaseException:
        with contextlib.suppress(DataError):  # a full disk has been told by then
            _add(path, time.monotonic() - start)
        raise
    _add(path, time.monotonic() - start)


def _add(path: Path, seconds: float) -> None:
    total = seconds_of(path) + seconds
    with writing_file(path.with_name(path.name + SECONDS), "give another --out") as file:
        file.write(f"{total:.3f}\n".encode())
