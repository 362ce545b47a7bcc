import math

import pytest

from edgedet.training.config import TrainingConfig
from edgedet.training.schedules import learning_rate


def test_warm_up_rises_to_the_rate_and_the_cosine_falls_to_the_last():
    config = TrainingConfig(epochs=4, lr=1.0, warmup_epochs=1, warmup_lr=0.2, final_lr=0.1)
    found = [learning_rate(config, step, 5) for step in range(20)]
    expected = [0.2 + 0.8 * done / 5 for done in range(1, 6)]
    for done in range(15):
        expected.append(0.1 + 0.9 * (1 + math.cos(math.pi * done / 15)) / 2)
    assert found == pytest.approx(expected)
    assert max(found) == 1.0
    assert found[-1] > 0.1


def test_constant_stays_after_the_warm_up():
    config = TrainingConfig(epochs=2, lr=0.5, schedule="constant", warmup_epochs=0.5, warmup_lr=0.1)
    assert [learning_rate(config, step, 4) for step in range(8)] == pytest.approx([0.3, *[0.5] * 7])


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(TrainingConfig(epochs=3, lr=0.7), 0, 10) == 0.7


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match=r"`warmup_epochs`.*fewer than `epochs`"):
        TrainingConfig(epochs=2, warmup_epochs=2)
