"""Mixed precision: which layers INT8 harms, and how few of them in float are enough.

A block is a quantized layer; layers whose outputs meet in an addition or a concatenation that reads them quantized are one
block, because it runs in INT8 only if all of them do.

Each block is judged by the logit error with nothing but it quantized. The other way round, everything but it quantized, hides a
block that is destroyed behind any other that is: leaving one of them out changes little. Alone, each shows what it does itself,
on top of exact inputs. The price: those runs are mostly in float, so they are slower.

Then the worst blocks are reverted one by one, each time running the graph that comes out, until the gate holds. That is greedy,
and the list of all steps is kept: it says what the next block would have bought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from edgedet.artifact import Figures
from edgedet.data.parallel import tracked
from edgedet.errors import QuantizeError
from edgedet.quantize.draft import Draft
from edgedet.quantize.graph import GraphView
from edgedet.quantize.judge import Judge, LogitError
from edgedet.quantize.placement import ABSORBED, Plan
from edgedet.recipe import Config

Limit = Annotated[float, msgspec.Meta(ge=0)]
Block = tuple[str, ...]
"""The names of layers that are quantized together."""


class MixedGate(Config, frozen=True, kw_only=True):
    """What INT8 may cost on held-out images before layers are reverted to float; None does not limit.

    max_flips: the share of verdicts that differ from the float graph's.
    max_error: the mean |dz|, in logits.
    """

    max_flips: Limit | None = 0.01
    max_error: Limit | None = 0.1

    def __post_init__(self) -> None:
        if self.max_flips is None and self.max_error is None:
            raise ValueError("a gate has `max_flips`, `max_error` or both")

    def holds(self, error: LogitError) -> bool:
        """Whether `error` is within both limits."""
        few = self.max_flips is None or error.flip_rate <= self.max_flips
        return few and (self.max_error is None or error.mean <= self.max_error)


@dataclass(frozen=True)
class Ranked:
    """A block, and the error that it causes alone."""

    block: Block
    error: LogitError

    @property
    def figures(self) -> Figures:
        """As plain data, for a manifest."""
        return {"block": list(self.block), **self.error.figures}


@dataclass(frozen=True)
class Step:
    """A mix: the blocks in float, worst first, the draft that has them so, and its error."""

    reverted: tuple[Block, ...]
    draft: Draft
    error: LogitError

    @property
    def nodes(self) -> list[str]:
        """The layers in float."""
        return [name for block in self.reverted for name in block]


def blocks(view: GraphView, plan: Plan) -> list[Block]:
    """The quantized layers of `plan` in groups that stand or fall together, in graph order."""
    group = {name: name for name in plan.weights}  # layer -> the first layer of its block
    for node in view.nodes:
        quantized = [name for name in node.input if node.name in plan.readers.get(name, ())]
        if node.op_type not in ("Add", "Concat") or len(quantized) < 2:
            continue
        meeting = {group[maker] for maker in (_maker(view, name) for name in quantized) if maker in group}
        first = next((name for name in group if name in meeting), None)
        group = {name: first if first is not None and of in meeting else of for name, of in group.items()}
    return [tuple(name for name, of in group.items() if of == first) for first in dict.fromkeys(group.values())]


def rank_blocks(draft: Draft, judge: Judge) -> list[Ranked]:
    """The blocks of `draft`, each quantized alone: most harmful first, by mean |dz|, then flips."""
    found = blocks(GraphView(draft.model), draft.plan)
    watched = tracked(found, total=len(found), title="rank blocks")
    ranked = [Ranked(block, judge(draft.only(block).write())) for block in watched]
    return sorted(ranked, key=lambda each: each.error.order, reverse=True)


def revert_until(draft: Draft, judge: Judge, ranked: Sequence[Ranked], gate: MixedGate) -> list[Step]:
    """`draft` with none, one, two ... of the blocks in float, in the order of `ranked`, up to the first mix that holds `gate`.

    Raises:
        QuantizeError: the gate holds only with every block in float.
    """
    steps: list[Step] = []
    for count in range(len(ranked)):
        reverted = tuple(each.block for each in ranked[:count])
        mixed = draft.keeping([name for block in reverted for name in block])
        steps.append(Step(reverted, mixed, judge(mixed.write())))
        if gate.holds(steps[-1].error):
            return steps
    last = steps[-1].error
    raise QuantizeError(
        f"no layer can stay in INT8: with only {', '.join(ranked[-1].block)} quantized, the mean logit error is "
        f"{last.mean:.3g} and {last.flips} of {last.n} verdicts flip, beyond {gate}: "
        "train with fake quantization, or loosen `mixed`"
    )


def pareto(steps: Sequence[Step]) -> list[Step]:
    """The steps that no step with fewer blocks in float equals: each has less error than all before it."""
    best: list[Step] = []
    for step in steps:
        if not best or step.error.order < best[-1].error.order:
            best.append(step)
    return best


def _maker(view: GraphView, tensor: str) -> str | None:
    """The name of the layer that makes `tensor`, directly or with an activation behind it."""
    node = view.producer(tensor)
    if node is not None and node.op_type in ABSORBED:
        node = view.producer(node.input[0])
    return None if node is None else node.name
