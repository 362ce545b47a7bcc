"""How much a student listens to its teachers: the ``[distillation]`` table of a recipe."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgedet.errors import TrainingError
from edgedet.recipe import Config
from edgedet.training.config import TrainingConfig

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_INNER = ("feature_weight", "attention_weight", "relation_weight", "angle_weight")


class Distillation(Config, frozen=True, kw_only=True):
    """How much a student listens to its teachers, who were asked about every training image and its mirror image, undegraded.

    What the student sees may be degraded, recoloured, partly hidden or shifted by a few pixels (``training.augment``): it is
    taught what they said of the image itself, since none of these must change what a detector makes of a photograph. With
    ``training.consistency_weight`` it is taught on both views and held to give them the same answer.

    temperature: both logits are divided by it (Hinton, Vinyals, Dean, 2015); the gradient is scaled back by its square.
    teacher_weights: of several teachers, how much each counts in the mean of their logits, in the order in which they are
        given; empty for all alike. What is not a logit is learned of the first.
    logit_weight: share of the teacher's logits in the loss, the rest are labels; of an image without one the rest is nothing.
    feature_weight: weight of matching the teacher's embedding (the classifier's input) through a learned projection, by
        cosine distance; after Romero et al., FitNets, ICLR 2015.
    attention_weight: weight of looking where the teacher looks: the distance of the attention maps of both networks' last
        feature map, for networks that have one (Zagoruyko and Komodakis, ICLR 2017).
    relation_weight: weight of keeping the distances between the teacher's embeddings of a batch (Park et al., CVPR 2019).
    angle_weight: weight of keeping their angles (same source), which costs the third power of the images a forward pass.
    patch_weight: share of the teacher's logits of patches in the loss (`edgedet.compress.patches`), the rest is all of the
        above; 1 for these alone, as Tiny-LaDeDa learns: then no label is read.

    Training images may lack labels (a folder called ``unlabelled``) wherever the teacher has any weight.
    """

    temperature: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    teacher_weights: tuple[Annotated[float, msgspec.Meta(gt=0)], ...] = ()
    logit_weight: Share = 0.8
    feature_weight: NotNegative = 0.0
    attention_weight: NotNegative = 0.0
    relation_weight: NotNegative = 0.0
    angle_weight: NotNegative = 0.0
    patch_weight: Share = 0.0

    def __post_init__(self) -> None:
        if self.patch_weight == 1 and (inner := self.inner):
            raise ValueError(f"`patch_weight` is 1, which leaves nothing to `{inner[0]}`: lower it, or set the other to 0")

    @property
    def teaches(self) -> bool:
        """Whether anything is learned of the teacher."""
        return bool(self.logit_weight or self.patch_weight or self.inner)

    @property
    def inner(self) -> tuple[str, ...]:
        """The keys that are set by which a student learns what lies inside its teacher and must lie inside itself."""
        return tuple(key for key in _INNER if getattr(self, key))

    def shares(self, teachers: int) -> tuple[float, ...]:
        """What each of so many teachers counts in their mean; they add up to 1.

        Raises:
            TrainingError: there is another number of weights.
        """
        if self.teacher_weights and len(self.teacher_weights) != teachers:
            raise TrainingError(
                f"distillation.teacher_weights has {len(self.teacher_weights)} weights for {teachers} teachers: "
                "give one for each, or none"
            )
        weights = self.teacher_weights or (1.0,) * teachers
        return tuple(weight / sum(weights) for weight in weights)


def require_answers(config: TrainingConfig, distillation: Distillation) -> None:
    """Refuse augmentations of which nobody knows what to teach: what moves pixels, and for patches what hides them.

    A few pixels to the side (`shift`) are no other image to a logit or an embedding; to patches and attention maps they are.

    Raises:
        TrainingError: names the way out.
    """
    placed = distillation.patch_weight or distillation.attention_weight
    if moving := [key for key in config.augment.moving if placed or key != "shift"]:
        raise TrainingError(
            "a teacher's answers are of the pixels where they are, or mirrored left to right: "
            f"leave {', '.join(moving)} out of training.augment"
        )
    if distillation.patch_weight and (hiding := config.augment.hiding):
        raise TrainingError(
            "a patch that is hidden says nothing of what the teacher saw in it: "
            f"leave {', '.join(hiding)} out of training.augment, or set distillation.patch_weight to 0"
        )
