"""What is decided by trying, on held-out images: how ranges are picked, whether biases are corrected, what stays in float.

Each step takes a draft and gives a better one or the same; what was tried is kept as figures, and said in notes.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from edgedet.quantize.judge import Judge
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
    """The decisions for one float graph; `figures` and `notes` fill as they are made."""

    whole: Draft
    target: Target
    images: Images
    options: QuantizeOptions
    figures: Figures = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def judge(self) -> Judge:
        """Of the float graph.

        Raises:
            QuantizeError: nothing is held out.
        """
        if self.images.held_out is None:
            raise QuantizeError("choosing ranges, biases or precisions by trying needs held-out images: give some")
        return Judge(self.whole.model, self.images.held_out, self.images.verdict)

    def run(self, histograms: Mapping[str, Histogram]) -> Draft:
        """The best draft that the options allow.

        Raises:
            QuantizeError: nothing is held out although something is to be tried, or the gate holds with no layer in INT8.
        """
        ranged = self._ranged(histograms)
        draft = self._corrected(ranged)
        gate = self.options.mixed
        if gate is not None and not gate.holds(self.judge(draft.write())):
            draft = self._corrected(self._mixed(ranged, gate))
        if self.images.held_out is not None:
            self.figures["held_out"] = self.judge(draft.write()).figures
        return draft

    def _ranged(self, histograms: Mapping[str, Histogram]) -> Draft:
        if self.options.ranges != "auto":
            return Choice(self.options.ranges, self.options.percentile).ranged(self.whole, histograms)
        tried = try_all(self.whole, histograms, self.judge)
        best, worst = tried[0], tried[-1]
        self.figures["ranges"] = [each.figures for each in tried]
        self.notes.append(
            f"ranges by {best.choice}: mean logit error {best.error.mean:.3g} on {best.error.n} held-out images, "
            f"the least of {len(tried)} tried; the most is {worst.error.mean:.3g}, by {worst.choice}"
        )
        return best.choice.ranged(self.whole, histograms)

    def _corrected(self, draft: Draft) -> Draft:
        """`draft` with corrected biases, where that is asked for, or is better and left to be found out."""
        wanted = self.options.bias_correction
        if not wanted:
            return draft
        found = correct(draft, self.images.few or self.images.ranges)
        count = f"{len(draft.plan.weights) - len(found.skipped)} of {len(draft.plan.weights)} layers"
        if wanted is True:
            self.notes.append(f"biases corrected in {count}")
            return found.draft
        before, after = self.judge(draft.write()), self.judge(found.draft.write())
        kept = after.order < before.order
        self.figures["bias_correction"] = {"before": before.figures, "after": after.figures, "kept": kept}
        self.notes.append(
            f"bias correction in {count} {'kept' if kept else 'tried and not kept'}: "
            f"mean logit error {before.mean:.3g} without, {after.mean:.3g} with it"
        )
        return found.draft if kept else draft

    def _mixed(self, draft: Draft, gate: MixedGate) -> Draft:
        ranked = rank_blocks(draft, self.judge)
        steps = revert_until(draft, self.judge, ranked, gate)
        found = spreads(self.whole.model, steps[-1].nodes, self.images.few or self.images.ranges)
        self.figures["mixed"] = {
            "gate": msgspec.to_builtins(gate),
            "alone": [each.figures for each in ranked],
            "reverted": [each.figures for each in found],
            **self._times(pareto(steps)),
        }
        first, last = steps[0].error, steps[-1]
        self.notes.append(
            f"mixed precision: {len(last.nodes)} of {len(draft.plan.weights)} layers in float ({', '.join(last.nodes)}); "
            f"mean logit error {last.error.mean:.3g} instead of {first.mean:.3g}, "
            f"{last.error.flips} instead of {first.flips} of {first.n} verdicts flip"
        )
        self.notes += map(str, found)
        return last.draft

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
