"""Detectors that judge patches: where each logit of their map looks, and which patches of two detectors are the same place.

A network of convolutions without padding gives a map whose logit ``i`` (along each axis) reads the pixels from ``stride * i``
up to ``stride * i + field - 1`` and no others: it answers for a patch what it would answer for that patch cut out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.errors import ModelError


@dataclass(frozen=True)
class PatchGrid:
    """The patches of a map, along each axis, in pixels: so wide, and one every `stride`, the first at the edge."""

    field: int
    stride: int

    @classmethod
    def behind(cls, layers: Iterable[tuple[int, int]]) -> PatchGrid:
        """What is seen through convolutions of (kernel, stride) without padding, in order."""
        field = stride = 1
        for kernel, step in layers:
            field, stride = field + (kernel - 1) * stride, stride * step
        return cls(field, stride)

    def count(self, side: int) -> int:
        """The number of patches along a `side` in pixels."""
        return max(0, (side - self.field) // self.stride + 1)


@dataclass(frozen=True)
class Alignment:
    """How the patches of a student fall on those of its teacher, along each axis.

    In the teacher's patch ``i`` lie `count` of the student's, the first of them ``step * i``. They fill it from edge to edge,
    so both have one centre.
    """

    count: int
    step: int

    def gather(self, patches: Tensor) -> Tensor:
        """A student's logits (B, h, w) as its answers for the teacher's patches (B, h', w'): the means within them.

        A detector of patches answers the mean of its logits, so this is what it would answer for each patch cut out.
        """
        return F.avg_pool2d(patches[:, None], self.count, self.step)[:, 0]


def align(student: PatchGrid, teacher: PatchGrid) -> Alignment:
    """The student's patches that lie within each of the teacher's.

    Raises:
        ModelError: they have no common centre: the student looks wider, or its stride does not fit the teacher's.
    """
    room = teacher.field - student.field
    if room < 0 or room % student.stride or teacher.stride % student.stride:
        raise ModelError(
            f"patches of {student.field} pixels every {student.stride} cannot be taught by patches of {teacher.field} every "
            f"{teacher.stride}: expected no wider ones, whose stride divides {teacher.stride} and {max(room, 0)}"
        )
    return Alignment(room // student.stride + 1, teacher.stride // student.stride)


def grid_of(net: nn.Module, name: str) -> PatchGrid:
    """The patches of the detector `name`.

    Raises:
        ModelError: it has none.
    """
    grid = getattr(net, "patch_grid", None)
    if not isinstance(grid, PatchGrid):
        raise ModelError(f"{name} has no logits of patches: take ladeda or ladeda-tiny, or set distillation.patch_weight to 0")
    return grid


def judged(features: Tensor, head: nn.Linear) -> Tensor:
    """The logits of patches (B, h, w): `head` at each place of `features` (B, C, h, w); their mean is `head` of the means."""
    logits: Tensor = head(features.movedim(1, -1))
    return logits[..., 0]


def pooled(embedding: Tensor) -> Tensor:
    """What `head` has read (B, ..., C), as one embedding an image (B, C)."""
    return embedding.flatten(1, -2).mean(1) if embedding.ndim > 2 else embedding
