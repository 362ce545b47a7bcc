"""Parity: the golden inputs through parent and child, at several batch sizes, on numpy alone.

It runs where the graph is made and again on the device after every engine build: some faults show at batch sizes above one
only. Differences are given in logits, and relative to the logits' scale: the largest parent logit, at least 1, because below
that a difference of the same size does not matter to a sigmoid.

The default gates: an FP32 graph differs by rounding only, 1e-4 of the scale. An FP16 graph rounds to 2**-11 (5e-4) after every
node; fifteen networks of up to 600 nodes differed by 3e-4 to 5e-3 of the scale, and a device that also adds up in half may lose
a few times that: 2e-2. An INT8 graph may move each logit, by a tenth of
the scale on average, and flip one verdict in sixteen; that catches a graph that is broken. Whether the detector is still
good enough is for the gates on the validation split, which see thousands of images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edgedet.artifact import Calibration, Figures
from edgedet.errors import Collapsed, ParityError
from edgedet.preprocess import Pixels
from edgedet.recipe import Config

BATCH_SIZES = (1, 2, 7, 16)

COLLAPSED = 0.5
"""A child that is refused, and has kept less than this of its parent's order, is one whose ranking is lost, not moved."""
_APART = 0.1
"""Of the logits' scale: what INT8 may move a logit by is no order to keep."""

Logits = npt.NDArray[np.float32]
Run = Callable[[Pixels], Logits]
"""uint8 (B, H, W, 3) -> logits (B,)."""


class ParityGate(Config, frozen=True, kw_only=True):
    """What a child may differ by; None does not limit.

    max_relative, mean_relative: the largest and the mean difference of a logit, relative to the logits' scale.
    flips: the share of verdicts that differ at the stored threshold.
    """

    max_relative: float | None = None
    mean_relative: float | None = None
    flips: float | None = None


GATES = {
    "fp32": ParityGate(max_relative=1e-4),
    "fp16": ParityGate(max_relative=2e-2, flips=1 / 16),
    "int8": ParityGate(mean_relative=0.1, flips=1 / 16),
}


@dataclass(frozen=True)
class Parity:
    """The differences, the worst batch size of each.

    max_difference, mean_difference: in logits; scale: of the parent's logits; flips of n verdicts.
    order: of the pairs that the parent tells apart, the share that the child has in the parent's order less the share that it
        has in reverse; ties are neither. 1 when the parent tells none apart.
    logits: the child's, float32 (N,), from the last batch size.
    """

    max_difference: float
    mean_difference: float
    scale: float
    flips: int
    n: int
    order: float
    batch_sizes: tuple[int, ...]
    logits: Logits

    @property
    def figures(self) -> Figures:
        """As plain data, for a manifest."""
        return {
            "max_difference": self.max_difference,
            "mean_difference": self.mean_difference,
            "max_relative": self.max_difference / self.scale,
            "mean_relative": self.mean_difference / self.scale,
            "flips": self.flips,
            "n": self.n,
            "batch_sizes": list(self.batch_sizes),
        }

    def hold_lowered(self, gate: ParityGate, what: str, precision: str) -> None:
        """As :meth:`hold`, for a child of lower precision: one that no longer ranks images as its parent is called by its name.

        Raises:
            ParityError: says which limit, by how much, and what to do.
            Collapsed: it differs by more, and less than :data:`COLLAPSED` of the parent's order is left.
        """
        try:
            self.hold(gate, what)
        except ParityError as error:
            if precision == "fp32" or self.order >= COLLAPSED:
                raise
            raise Collapsed(
                f"COLLAPSED under {precision}: of the parent's order of the golden images {self.order:.0%} is left; {error}"
            ) from error

    def hold(self, gate: ParityGate, what: str) -> None:
        """Refuse a child that differs by more than `gate` allows; `what` names it.

        Raises:
            ParityError: says which limit, by how much, and what to do.
        """
        found = {"max_relative": self.figures["max_relative"], "mean_relative": self.figures["mean_relative"]}
        found["flips"] = self.flips / self.n
        for key, limit in msgspec.structs.asdict(gate).items():
            if limit is not None and found[key] > limit:
                raise ParityError(
                    f"{what}: {key} is {found[key]:.3g}, the parity gate allows {limit:.3g} (largest logit difference "
                    f"{self.max_difference:.3g} at scale {self.scale:.3g}, {self.flips} of {self.n} verdicts flipped): "
                    "try another range method, train with fake quantization, or set parity." + key
                )


def measure(
    run: Run,
    pixels: Pixels,
    parent_logits: Logits,
    calibration: Calibration,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> Parity:
    """Compare `run` with `parent_logits` (N,) on `pixels`, uint8 (N, H, W, 3).

    Raises:
        ParityError: the child gives another number of logits than images, or one that is not finite.
    """
    return compare({size: _in_batches(run, pixels, size) for size in batch_sizes}, parent_logits, calibration)


def compare(by_batch_size: Mapping[int, Logits], parent_logits: Logits, calibration: Calibration) -> Parity:
    """The worst differences of logits (N,), one set for each batch size, to `parent_logits` (N,)."""
    expected = calibration.verdict(parent_logits)
    found = list(by_batch_size.values())
    scale = max(1.0, float(np.abs(parent_logits).max()))
    differences = np.abs(np.stack(found).astype(np.float64) - parent_logits)  # (batch sizes, N)
    return Parity(
        max_difference=float(differences.max()),
        mean_difference=float(differences.mean(axis=1).max()),
        scale=scale,
        flips=max(int((calibration.verdict(logits) != expected).sum()) for logits in found),
        n=len(parent_logits),
        order=min(_order(logits, parent_logits, _APART * scale) for logits in found),
        batch_sizes=tuple(by_batch_size),
        logits=found[-1],
    )


def _order(logits: Logits, parent_logits: Logits, apart: float) -> float:
    """Kendall's tau of logits (N,) and the parent's, over the pairs that lie further than `apart` from each other there."""
    theirs = parent_logits[:, None].astype(np.float64) - parent_logits
    ours = logits[:, None].astype(np.float64) - logits
    told = np.abs(theirs) > apart
    return float((np.sign(ours) * np.sign(theirs))[told].mean()) if told.any() else 1.0


def _in_batches(run: Run, pixels: Pixels, size: int) -> Logits:
    parts = []
    for start in range(0, len(pixels), size):
        batch = pixels[start : start + size]
        logits = np.asarray(run(batch), dtype=np.float32)
        if logits.shape != (len(batch),):
            raise ParityError(f"a batch of {len(batch)} images gave logits of shape {logits.shape}: the batch is not dynamic")
        if not np.isfinite(logits).all():
            raise ParityError(f"a batch of {len(batch)} images gave a logit that is not finite: the graph cannot be used")
        parts.append(logits)
    return np.concatenate(parts)
