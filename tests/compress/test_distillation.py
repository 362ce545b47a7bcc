import pytest

from edgedet.compress.distillation import Distillation, require_answers
from edgedet.data.augment import Augment
from edgedet.errors import RecipeError, TrainingError
from edgedet.recipe import convert
from edgedet.training.config import TrainingConfig


def test_pixels_stay_where_the_teacher_saw_them():
    whole, patches = Distillation(), Distillation(patch_weight=0.5)
    require_answers(TrainingConfig(augment=Augment(hflip=True, blur=0.1, brightness=0.2, jpeg=0.5, mask=0.5, cutout=3)), whole)
    require_answers(TrainingConfig(augment=Augment(shift=2)), whole)
    with pytest.raises(TrainingError, match="mirrored left to right: leave rotation out of"):
        require_answers(TrainingConfig(augment=Augment(shift=2, rotation=5, jpeg=0.5)), whole)
    with pytest.raises(TrainingError, match="mirrored left to right: leave shift out of"):
        require_answers(TrainingConfig(augment=Augment(shift=2)), patches)
    with pytest.raises(TrainingError, match="mirrored left to right: leave shift out of"):
        require_answers(TrainingConfig(augment=Augment(shift=2)), Distillation(attention_weight=1))
    require_answers(TrainingConfig(augment=Augment(jpeg=0.5)), patches)
    with pytest.raises(TrainingError, match=r"a patch that is hidden says nothing.*: leave mask, cutout out of"):
        require_answers(TrainingConfig(augment=Augment(mask=0.5, cutout=3)), patches)


def test_weights_of_teachers_are_shares_of_their_mean():
    assert Distillation().shares(4) == (0.25,) * 4
    assert Distillation(teacher_weights=(3, 1)).shares(2) == (0.75, 0.25)
    with pytest.raises(TrainingError, match="teacher_weights has 2 weights for 3 teachers: give one for each, or none"):
        Distillation(teacher_weights=(3, 1)).shares(3)
    with pytest.raises(RecipeError, match="teacher_weights"):
        convert({"teacher_weights": [1.0, 0.0]}, Distillation, source="recipe")
