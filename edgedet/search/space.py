"""What is searched: students x widths x shares kept by pruning x precisions, as a recipe and as candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edgedet.artifact import DetectorSpec
from edgedet.recipe import Config

Precision = Literal["fp32", "fp16", "int8", "qat"]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Positive = Annotated[int, msgspec.Meta(gt=0)]


class Student(Config, frozen=True, kw_only=True):
    """A student of the search.

    recipe: of ``stage = "distill"``, its name or path.
    widths: values of its builder's argument `width` to try; none leaves the recipe's own.
    """

    recipe: str
    widths: tuple[Positive, ...] = ()


class CompressRecipe(Config, frozen=True, kw_only=True):
    """``stage = "compress"``: what `edgedet compress` tries, and how much it trains before it decides.

    students: the networks, each trained from the teacher.
    keep: shares of a student's multiply-accumulates that pruning leaves; 1 is not pruned.
    precisions: of the graph: `int8` is quantized after training, `qat` trained to be rounded. Those that the target does not
        take are left out.
    prune: the recipe that prunes, whose `keep` is set; needed when a share is below 1.
    qat: the recipe that trains rounding; needed with `qat`.
    rungs: rounds of training, of which the last trains for as many epochs as the recipes say.
    eta: each round before trains for a share of 1/eta of the next one's epochs, at least one, and hands on one network in eta.
    """

    stage: Literal["compress"]
    students: Annotated[tuple[Student, ...], msgspec.Meta(min_length=1)]
    keep: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)] = (1.0, 0.5, 0.25)
    precisions: Annotated[tuple[Precision, ...], msgspec.Meta(min_length=1)] = ("fp32", "int8")
    prune: str = ""
    qat: str = ""
    rungs: Positive = 3
    eta: Annotated[float, msgspec.Meta(gt=1)] = 3.0

    def __post_init__(self) -> None:
        if any(share < 1 for share in self.keep) and not self.prune:
            raise ValueError("`keep` below 1 needs `prune`, the recipe that prunes")
        if "qat" in self.precisions and not self.qat:
            raise ValueError("`precisions` has `qat`, which needs `qat`, the recipe that trains it")
        names = [trunk.name for trunk in trunks(self)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"`students` and `keep` give two networks called {twice}: give each once, under names that differ")

    def epochs(self, published: int, rung: int) -> int:
        """How many of a recipe's epochs a round trains."""
        return max(1, round(published / self.eta ** (self.rungs - 1 - rung)))


@dataclass(frozen=True)
class Trunk:
    """A network that is trained: a student at a width, pruned or not; width 0 is the recipe's own."""

    recipe: str
    width: int
    keep: float

    @property
    def student(self) -> str:
        """The name of the student's folder."""
        name = self.recipe.rpartition("/")[2].removesuffix(".toml")
        return f"{name}-w{self.width}" if self.width else name

    @property
    def name(self) -> str:
        """The student and what is kept of it."""
        return f"{self.student}-keep{self.keep:g}"

    def detector(self, spec: DetectorSpec) -> DetectorSpec:
        """The recipe's detector at this width."""
        if not self.width:
            return spec
        return msgspec.structs.replace(spec, arguments={**spec.arguments, "width": self.width})


@dataclass(frozen=True)
class Candidate:
    """A trunk in one precision: what is exported, measured and judged."""

    trunk: Trunk
    precision: Precision

    @property
    def name(self) -> str:
        """As in ``cifake-student-w24-keep0.5-int8``."""
        return f"{self.trunk.name}-{self.precision}"


def trunks(config: CompressRecipe) -> Iterator[Trunk]:
    """All of them, in the order of the recipe."""
    for student in config.students:
        for width in student.widths or (0,):
            for share in config.keep:
                yield Trunk(student.recipe, width, share)
