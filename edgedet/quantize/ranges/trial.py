"""Which method picks the ranges best is found by trying: each one's graph is run on images that no range was found on.

On a squared-error or a divergence alone it cannot be told: what a clipped outlier costs is decided by the layers behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edgedet.artifact import Figures
from edgedet.quantize.draft import Draft
from edgedet.quantize.judge import Judge, LogitError
from edgedet.quantize.ranges.histogram import Histogram
from edgedet.quantize.ranges.methods import Method, choose


@dataclass(frozen=True)
class Choice:
    """A method, with the percentile where it takes one."""

    method: Method
    percentile: float = 100.0

    def __str__(self) -> str:
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method

    def ranged(self, draft: Draft, histograms: Mapping[str, Histogram]) -> Draft:
        """`draft` with the ranges that this picks."""
        symmetric = draft.scheme.symmetric
        picked = {
            name: choose(found, self.method, symmetric=symmetric, percentile=self.percentile)
            for name, found in histograms.items()
        }
        return draft.ranged(picked)


CHOICES = (
    Choice("mse"), Choice("percentile", 99.999), Choice("percentile", 99.99), Choice("entropy"), Choice("minmax"),
)  # fmt: skip
"""In the order in which equals are preferred."""


@dataclass(frozen=True)
class Tried:
    """A choice and its error on the held-out images."""

    choice: Choice
    error: LogitError

    @property
    def figures(self) -> Figures:
        """As plain data, for a manifest."""
        return {"ranges": str(self.choice), **self.error.figures}


def try_all(draft: Draft, histograms: Mapping[str, Histogram], judge: Judge, keep: Collection[str] = ()) -> list[Tried]:
    """Every choice, with the nodes `keep` in float, least mean error first; flips decide between equals."""
    tried = [Tried(choice, judge(choice.ranged(draft, histograms).keeping(keep).write())) for choice in CHOICES]
    return sorted(tried, key=lambda each: each.error.order)
