"""The search: rounds of training, each longer and of fewer networks, until what fits the device is found or the time is over.

Everything lies in one folder: the artifacts of every candidate below ``candidates``, its figures in a JSON file beside them,
and what came of it all in ``front.json``, ``front.png`` and ``best``. What is there is not made again, so a search that was
killed goes on where it was: a training from its last saved state, anything else from the last whole artifact.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from edgedet import target as targets
from edgedet.artifact import Artifact
from edgedet.data.index import Index
from edgedet.data.store import writing_file
from edgedet.errors import BenchError, ExportError, ModelError, NothingToPrune, QuantizeError, StateError, TrainingError
from edgedet.evaluate.collapse import COLLAPSE
from edgedet.export import stage as export
from edgedet.export.stage import ExportConfig
from edgedet.search import cost, halving, making, result
from edgedet.search.cost import Cost, Timing
from edgedet.search.halving import Limits
from edgedet.search.judge import judged
from edgedet.search.making import SECONDS, Maker, seconds_of
from edgedet.search.result import Failure, Result
from edgedet.search.space import Candidate, CompressRecipe, Trunk, trunks
from edgedet.training.loop import Interrupted

log = logging.getLogger(__name__)

SETTINGS, CANDIDATES, TEACHER, BEST = "search.json", "candidates", "teacher-fp32", "best"
COMPARED = "compared.json"
MEASURING = "measuring"
"""What its seconds are kept under: see `edgedet.search.making.clocked`."""
_MOST_MEASURED_AGAIN = 12
_REFUSALS = (NothingToPrune, ExportError, QuantizeError, BenchError, ModelError, TrainingError)
"""What a stage says of one candidate. Anything else, as a full disk, ends the search, which can be resumed."""


@dataclass
class Search:
    """What a search has found; `results` has the longest round of each candidate.

    notes: what was left out for want of time, and why.
    """

    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    chosen: Result | None = None

    @property
    def front(self) -> list[Result]:
        """Those that no other beats in everything, the fastest first."""
        return halving.front(list(self.results.values()))


def run(
    config: CompressRecipe,
    teacher: Artifact,
    data: Index,
    out: Path,
    *,
    target: str = "host",
    limits: Limits,
    budget_minutes: float | None = None,
    timing: Timing | None = None,
    resume: bool = False,
) -> Search:
    """Search in the folder `out` for the compressed `teacher` that holds `limits` on `target`.

    budget_minutes: of training and measuring, those of an interrupted run included (but what a killed one was at when it was
        killed); each round gets an equal share, and a network whose training would go beyond the end is not begun.

    Raises:
        TrainingError: `out` holds a search and `resume` is not set, or one with other settings.
        RecipeError, ModelError: a recipe of the search cannot be used.
        BenchError: the target is not here and nothing like the teacher's students can be estimated on it.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    teacher.require("checkpoint")
    device = targets.resolve(target)
    maker = Maker(config, teacher, data, out / CANDIDATES, device, target)
    cost.require(device, maker.students(), teacher, speedup=limits.speedup is not None)
    what = {"recipe": config, "stages": maker.recipes(), "teacher": teacher.digest, "data": data.digest}
    _begin(out, {**what, "target": device.name, "system": device.system}, resume=resume)
    reference = _teacher_graph(teacher, data, out, target)
    search = Search()
    job = _Job(maker, reference, limits, budget_minutes, search, out, timing or Timing())
    alive = list(trunks(config))
    for rung in range(config.rungs):
        done = [trunk for trunk in alive if job.round(trunk, rung)]
        if rung + 1 < config.rungs:
            job.compare(rung)
            alive = halving.promoted(done, job.by_trunk(done), limits, config.eta)
        if not alive:
            break
    job.measure_again()
    search.chosen = halving.chosen(list(search.results.values()), limits)
    if search.chosen is not None:
        _keep(out, search.chosen)
    return search


@dataclass
class _Job:
    """A search while it runs."""

    maker: Maker
    reference: Artifact
    limits: Limits
    budget_minutes: float | None
    search: Search
    out: Path
    timing: Timing

    def round(self, trunk: Trunk, rung: int) -> bool:
        """Make and judge the candidates of a trunk that may still fit; False without time for it, or if nothing came of it."""
        candidates = self.candidates(trunk)
        if not candidates or not self.in_time(trunk, rung, candidates):
            return False
        found = [self.one(each, rung) for each in candidates]
        return any(found)

    def candidates(self, trunk: Trunk) -> list[Candidate]:
        """One a precision that the target takes; what cannot fit, or failed before, is left out."""
        takes = {*self.maker.target.precisions, *(["qat"] if "int8" in self.maker.target.precisions else [])}
        wanted = [Candidate(trunk, each) for each in self.maker.config.precisions if each in takes]
        before = self.search.results
        return [
            each
            for each in wanted
            if each.name not in self.search.failures
            and not (each.name in before and self.limits.hopeless(before[each.name]))
        ]

    def one(self, candidate: Candidate, rung: int) -> bool:
        """Make, measure and judge a candidate, or read what came of it before a restart; False when it could not be made."""
        record = result.load(self.kept(candidate, rung))
        if record is None:
            record = self.judged(candidate, rung)
            result.save(self.kept(candidate, rung), record)
        if isinstance(record, Failure):
            self.search.failures[candidate.name] = record
            log.info("%s: %s", candidate.name, record.reason)
            return False
        self.search.results[candidate.name] = record
        shown = f"{100 * record.worst:.2f} % at the worst generator, {record.latency_ms:.3g} ms {record.latency_kind}"
        log.info("round %d, %s: %s, %.4g kB", rung + 1, candidate.name, shown, record.size_bytes / 1000)
        return True

    def kept(self, candidate: Candidate, rung: int) -> Path:
        """Of the record of what came of it."""
        path = self.maker.path(candidate, rung)
        return path.with_name(path.name + ".json")

    def judged(self, candidate: Candidate, rung: int) -> Result | Failure:
        """What comes of a candidate; a stage's refusal is a result too."""
        maker = self.maker
        try:
            made = maker.make(candidate, rung)
            if lost := made.manifest.metrics.get(COLLAPSE):
                return Failure(name=candidate.name, rung=rung, reason=lost["text"])
            with making.clocked(self.out / MEASURING):
                (paid,) = cost.of([made], self.reference, maker.target, self.timing)
        except (Interrupted, StateError):
            raise
        except _REFUSALS as error:
            return Failure(name=candidate.name, rung=rung, reason=str(error))
        epochs = maker.student_recipe(candidate.trunk, rung).training.epochs
        val = maker.data.split("val")
        return judged(candidate, made, maker.teacher, val, paid, rung=rung, epochs=epochs, root=self.out)

    def by_trunk(self, some: Sequence[Trunk]) -> dict[Trunk, list[Result]]:
        """The results of each."""
        results = self.search.results.values()
        return {trunk: [each for each in results if each.trunk == trunk.name] for trunk in some}

    def in_time(self, trunk: Trunk, rung: int, candidates: Sequence[Candidate]) -> bool:
        """Whether the budget allows to begin with a trunk; what is known already costs nothing."""
        unknown = [each for each in candidates if not self.kept(each, rung).is_file()]
        if self.budget_minutes is None or not unknown:
            return True
        budget, rungs = 60 * self.budget_minutes, self.maker.config.rungs
        spent = self.spent()
        if rung == 0:
            begun = any(each.rung == 0 for each in self.search.results.values())
            enough = not begun or spent < budget / rungs
        else:
            enough = spent + self.predicted(trunk, rung, unknown) <= budget
        if not enough:
            self.search.notes.append(f"round {rung + 1} of {trunk.name} left out: {spent / 60:.3g} minutes are spent")
        return enough

    def predicted(self, trunk: Trunk, rung: int, candidates: Sequence[Candidate]) -> float:
        """The seconds of a round, from those of the round before and the epochs of both."""
        maker = self.maker
        longer = maker.student_recipe(trunk, rung).training.epochs / maker.student_recipe(trunk, rung - 1).training.epochs
        paths = zip(maker.paths(trunk, rung - 1, candidates), maker.paths(trunk, rung, candidates), strict=True)
        return longer * sum(seconds_of(before) for before, now in paths if not now.exists())

    def spent(self) -> float:
        """The seconds that everything in the folder took to make, and what came to nothing, and measuring."""
        return sum(seconds_of(each.with_name(each.name.removesuffix(SECONDS))) for each in self.out.rglob(f"*{SECONDS}"))

    def compare(self, rung: int) -> None:
        """Time a round's candidates once more, beside each other in one run, before some are given up; estimates stay.

        They were made an hour apart, beside other neighbours on the machine, which only slow it down: the better counts.
        What a restart finds written down is not timed again.
        """
        mark = self.out / CANDIDATES / f"round{rung}" / COMPARED
        if not cost.is_here(self.maker.target) or mark.is_file():
            return
        results = self.search.results
        best = sorted((each for each in results.values() if each.rung == rung), key=lambda each: -each.worst)
        names = [each.name for each in best[:_MOST_MEASURED_AGAIN]]
        for name, now in zip(names, self.timed(names), strict=True):
            results[name] = better = result.better(results[name], now)
            result.save(self.out / f"{better.path}.json", better)
        with writing_file(mark, "give another --out") as file:
            file.write(msgspec.json.encode(names))

    def timed(self, names: Sequence[str]) -> list[Cost]:
        """What candidates cost, all beside each other and the teacher, for four times as long as each was timed alone."""
        if not names:
            return []
        rules = self.timing.rules
        longer = msgspec.structs.replace(rules, seconds=4 * rules.seconds, max_seconds=4 * rules.max_seconds)
        made = [Artifact.load(self.out / self.search.results[name].path) for name in names]
        with making.clocked(self.out / MEASURING):
            return cost.of(made, self.reference, self.maker.target, replace(self.timing, rules=longer))

    def measure_again(self) -> None:
        """What may be chosen, the likeliest first, then the front: beside each other and the teacher in one run.

        So their speeds compare. Estimates stay as they are.
        """
        if not cost.is_here(self.maker.target):
            return
        results = self.search.results
        likely = sorted(filter(self.limits.may_fit, results.values()), key=self.limits.preference)
        again = list(dict.fromkeys(each.name for each in (*likely, *self.search.front)))[:_MOST_MEASURED_AGAIN]
        for name, now in zip(again, self.timed(again), strict=True):
            results[name] = result.priced(results[name], now)


def _begin(out: Path, what: Mapping[str, object], *, resume: bool) -> None:
    """Write down what is searched; a folder with another search is refused, and torn leftovers of a killed one removed."""
    digest = hashlib.sha256(msgspec.json.encode(what)).hexdigest()
    kept = out / SETTINGS
    if kept.is_file():
        if not resume:
            raise TrainingError(f"{out}: holds a search: add --resume to go on with it, or give another --out")
        if msgspec.json.decode(kept.read_bytes()).get("digest") != digest:
            raise TrainingError(f"{out}: holds a search with another recipe, teacher, data set or target: give another --out")
    elif out.exists() and any(out.iterdir()):
        raise TrainingError(f"{out}: is there and holds no search: give a folder that is empty or new")
    else:
        with writing_file(kept, "give another --out") as file:
            file.write(msgspec.json.format(msgspec.json.encode({"digest": digest, **what}), indent=2))
    for torn in out.rglob(".*.partial-*"):
        shutil.rmtree(torn) if torn.is_dir() else torn.unlink()


def _teacher_graph(teacher: Artifact, data: Index, out: Path, target: str) -> Artifact:
    """The teacher in FP32 for the target, which speed-ups are over."""
    path = out / TEACHER
    if path.exists():
        return Artifact.load(path)
    return export.run(ExportConfig(precision="fp32", target=target, gates=()), teacher, data, path)


def _keep(out: Path, found: Result) -> None:
    """The chosen artifact as ``best``, instead of one that was chosen under other limits."""
    temporary = out / f".{BEST}.partial-copy"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(out / found.path, temporary)
    shutil.rmtree(out / BEST, ignore_errors=True)
    temporary.rename(out / BEST)
