"""What is decided by trying, on held-out images: how ranges are picked, whether biases are corrected, what stays in float.

Each step takes a draft and gives a better one or the same; what was tried is kept as figures, and said in notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from edgedet.artifact import Figures
from edgedet.errors import QuantizeError
from edgedet.quantize import costs
from edgedet.quantize.bias import correct
from edgedet.quantize.channels import spreads
from edgedet.quantize.draft import Draft
from edgedet.quantize.judge import Judge, LogitError
from edgedet.quantize.ranges import Histogram, Method
from edgedet.quantize.ranges.trial import Choice, try_all
from edgedet.quantize.sample import Images
from edgedet.quantize.sensitivity import MixedGate, Step, pareto, rank_blocks, revert_until
from edgedet.recipe import Config
from edgedet.target import Target

_MOST_TIMED = 6


class QuantizeOptions(Config, frozen=True, kw_only=True):
    """How a graph is quantized.

    ranges: how ranges are picked from what was observed; ``auto`` tries the methods on held-out images and keeps the best.
    percentile: the share of the values, in percent, that the method ``percentile`` keeps.
    bias_correction: see `edgedet.quantize.bias`; ``auto`` keeps it where it lowers the error on held-out images.
    mixed: what INT8 may cost before layers are reverted to float; None leaves all in INT8.
    """

    ranges: Method | Literal["auto"] = "mse"
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 99.99
    bias_correction: bool | Literal["auto"] = False
    mixed: MixedGate | None = None

    @property
    def judges(self) -> bool:
        """Whether anything is decided on held-out images."""
        return self.ranges == "auto" or self.bias_correction == "auto" or self.mixed is not None


@dataclass
class Search:
    """The decisions for one float graph; `figures` and `said` fill as they are made, a later one in place of an earlier."""

    whole: Draft
    target: Target
    images: Images
    options: QuantizeOptions
    figures: Figures = field(default_factory=dict)
    said: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def judge(self) -> Judge:
        """Of the float graph.

        Raises:
            QuantizeError: nothing is held out.
        """
        if self.images.held_out is None:
            raise QuantizeError("choosing ranges, biases or precisions by trying needs held-out images: give some")
        return Judge(self.whole.model, self.images.held_out, self.images.verdict, self.images.finish)

    def run(self, histograms: Mapping[str, Histogram]) -> Draft:
        """The best draft that the options allow.

        Raises:
            QuantizeError: nothing is held out although something is to be tried, or the gate holds with no layer in INT8.
        """
        ranged = self._ranged(histograms)
        draft = self._corrected(ranged)
        gate = self.options.mixed
        if gate is not None and not gate.holds(self.judge(draft.write())):
            # A ruined layer drowns what ranges and biases do: both are decided again for what stays in INT8.
            draft = self._corrected(self._ranged(histograms, self._reverted(ranged, gate)))
        if self.images.held_out is not None:
            self.figures["held_out"] = self.judge(draft.write()).figures
        return draft

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided, one line for each fact."""
        return tuple(line for lines in self.said.values() for line in lines)

    def _ranged(self, histograms: Mapping[str, Histogram], keep: Sequence[str] = ()) -> Draft:
        """The float graph with ranges; the nodes `keep` stay in float, and the gate that they bought is not given away."""
        if self.options.ranges != "auto":
            return Choice(self.options.ranges, self.options.percentile).ranged(self.whole, histograms).keeping(keep)
        tried = try_all(self.whole, histograms, self.judge, keep)
        best = next((each for each in tried if keep and self._holds(each.error)), tried[0])
        worst = tried[-1]
        self.figures["ranges"] = [each.figures for each in tried]
        self.said["ranges"] = (
            f"ranges by {best.choice}: mean logit error {best.error.mean:.3g} on {best.error.n} held-out images, "
            f"of {len(tried)} methods between {tried[0].error.mean:.3g} and {worst.error.mean:.3g} ({worst.choice})",
        )
        return best.choice.ranged(self.whole, histograms).keeping(keep)

    def _corrected(self, draft: Draft) -> Draft:
        """`draft` with corrected biases, where that is asked for, or is better and left to be found out."""
        wanted = self.options.bias_correction
        if not wanted:
            return draft
        found = correct(draft, self.images.few or self.images.ranges)
        count = f"{len(draft.plan.weights) - len(found.skipped)} of {len(draft.plan.weights)} layers"
        if wanted is True:
            self.said["bias_correction"] = (f"biases corrected in {count}",)
            return found.draft
        before, after = self.judge(draft.write()), self.judge(found.draft.write())
        kept = after.order < before.order and (self._holds(after) or not self._holds(before))
        self.figures["bias_correction"] = {"before": before.figures, "after": after.figures, "kept": kept}
        self.said["bias_correction"] = (
            f"bias correction in {count} {'kept' if kept else 'tried and not kept'}: "
            f"mean logit error {before.mean:.3g} without, {after.mean:.3g} with it",
        )
        return found.draft if kept else draft

    def _holds(self, error: LogitError) -> bool:
        return self.options.mixed is None or self.options.mixed.holds(error)

    def _reverted(self, draft: Draft, gate: MixedGate) -> list[str]:
        """The layers that have to stay in float for `gate` to hold."""
        ranked = rank_blocks(draft, self.judge)
        steps = revert_until(draft, self.judge, ranked, gate)
        first, last = steps[0].error, steps[-1].error
        nodes = steps[-1].nodes
        why = spreads(self.whole.model, nodes, self.images.few or self.images.ranges)
        self.figures["mixed"] = {
            "gate": msgspec.to_builtins(gate),
            "alone": [each.figures for each in ranked],
            "reverted": [each.figures for each in why],
            **self._times(pareto(steps)),
        }
        self.said["mixed"] = (
            f"mixed precision: {len(nodes)} of {len(draft.plan.weights)} layers in float ({', '.join(nodes)}); "
            f"mean logit error {last.mean:.3g} instead of {first.mean:.3g}, "
            f"{last.flips} instead of {first.flips} of {first.n} verdicts flip",
            *map(str, why),
        )
        return nodes

    def _times(self, steps: list[Step]) -> Figures:
        """The Pareto list with the time of each mix: estimated, and measured where the target is this machine."""
        measured = self._measured(steps)
        shares = costs.multiplications(self.whole.model, self.whole.plan.weights, self.images.ranges)
        rows: list[dict[str, Any]] = []
        for position, step in enumerate(steps):
            row = {"blocks_in_float": len(step.reverted), "layers_in_float": step.nodes, **step.error.figures}
            row["estimated_time"] = costs.estimated_share(shares, step.nodes)
            if position in measured:
                row["measured_ms"] = measured[position]
            rows.append(row)
        return {"pareto": rows, "float_ms": measured.get(-1), "how": costs.HOW}

    def _measured(self, steps: list[Step]) -> dict[int, float]:
        """Position in `steps` -> milliseconds, -1 for the float graph; at most six steps, first and last among them."""
        if self.target.runtime != "onnxruntime" or not self.target.is_this_machine:
            return {}
        chosen = sorted(set(np.linspace(0, len(steps) - 1, _MOST_TIMED).round().astype(int).tolist()))
        pixels = next(iter(self.images.ranges()))[:1]
        models = [self.whole.model, *(steps[position].draft.write() for position in chosen)]
        return dict(zip([-1, *chosen], costs.interleaved_ms(models, pixels), strict=True))
