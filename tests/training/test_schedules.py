import math

import msgspec
import pytest
import torch

from edgedet.training.config import Phase, TrainingConfig
from edgedet.training.schedules import current, first, learning_rate, out_of_patience


def rates(config: TrainingConfig, steps: int, steps_per_epoch: int, history=()) -> list[float]:
    """One a step, with the epochs known so far, as the loop asks for them."""
    return [learning_rate(config, step, steps_per_epoch, history[: step // steps_per_epoch]) for step in range(steps)]


def figures(*losses: float) -> list[dict[str, float]]:
    return [{"epoch": float(n), "loss": loss, "auc": 1 - loss, "balanced_accuracy": 0.5} for n, loss in enumerate(losses)]


def test_warm_up_rises_to_the_rate_and_the_cosine_falls_to_the_last():
    config = TrainingConfig(epochs=4, lr=1.0, warmup_epochs=1, warmup_lr=0.2, final_lr=0.1)
    found = rates(config, 20, 5)
    expected = [0.2 + 0.8 * done / 5 for done in range(1, 6)]
    for done in range(15):
        expected.append(0.1 + 0.9 * (1 + math.cos(math.pi * done / 15)) / 2)
    assert found == pytest.approx(expected)
    assert max(found) == 1.0
    assert found[-1] > 0.1


def test_constant_stays_after_the_warm_up():
    config = TrainingConfig(epochs=2, lr=0.5, schedule="constant", warmup_epochs=0.5, warmup_lr=0.1)
    assert rates(config, 8, 4) == pytest.approx([0.3, *[0.5] * 7])


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(TrainingConfig(epochs=3, lr=0.7), 0, 10) == 0.7


def pytorchs(scheduler, epochs: int, step) -> list[float]:
    """The rate of each epoch under one of PyTorch's own schedulers."""
    found = []
    for epoch in range(epochs):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        step(scheduler, epoch)
    return found


def sgd(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)


def test_steps_are_those_of_pytorch():
    """NPR's published schedule: a tenth less every ten epochs."""
    config = TrainingConfig(epochs=50, lr=2e-4, schedule="step", step_epochs=10, step_factor=0.9)
    expected = pytorchs(torch.optim.lr_scheduler.StepLR(sgd(2e-4), 10, 0.9), 50, lambda s, _: s.step())
    assert rates(config, 150, 3)[::3] == pytest.approx(expected)


@pytest.mark.parametrize(("monitor", "mode"), [("loss", "min"), ("auc", "max")])
@pytest.mark.parametrize(("patience", "factor", "least"), [(3, 0.1, 0.0), (0, 0.5, 1e-6), (2, 0.5, 2e-4)])
def test_plateaus_are_those_of_pytorch(monitor, mode, patience, factor, least):
    """Losses that fall, stay, fall by less than a ten-thousandth, rise, and fall again."""
    losses = [0.7, 0.5, 0.5, 0.499999, 0.49998, 0.6, 0.6, 0.4, 0.41, 0.4, 0.4, 0.4, 0.4, 0.4, 0.39, 0.5, 0.5, 0.5, 0.5, 0.5]
    history = figures(*losses)
    config = TrainingConfig(
        epochs=20, lr=1e-3, schedule="plateau", plateau_factor=factor, plateau_patience=patience, min_lr=least, monitor=monitor
    )
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd(1e-3), mode, factor, patience, min_lr=least)
    expected = pytorchs(scheduler, 20, lambda s, epoch: s.step(history[epoch][monitor]))
    assert len(set(expected)) > 2
    assert rates(config, 40, 2, history)[::2] == pytest.approx(expected)


def test_a_plateau_may_be_of_another_figure_than_the_best_epoch():
    """The focal-loss paper lowers the rate by validation loss and keeps the epoch of the best accuracy."""
    config = TrainingConfig(schedule="plateau", lr=1.0, plateau_patience=0, monitor="balanced_accuracy", plateau_monitor="loss")
    assert learning_rate(config, 3, 1, figures(0.5, 0.4, 0.3)) == 1.0
    by_accuracy = msgspec.structs.replace(config, plateau_monitor=None)
    assert learning_rate(by_accuracy, 3, 1, figures(0.5, 0.4, 0.3)) == pytest.approx(0.01)


def test_patience_counts_epochs_that_do_not_gain_enough():
    config = TrainingConfig(monitor="loss", patience=2, min_delta=0.1)
    assert not out_of_patience(config, figures(1.0, 0.95))
    assert out_of_patience(config, figures(1.0, 0.95, 0.91))
    assert not out_of_patience(config, figures(1.0, 0.95, 0.85))
    assert not out_of_patience(msgspec.structs.replace(config, min_delta=0.0), figures(1.0, 0.95, 0.91))
    assert not out_of_patience(TrainingConfig(), figures(*[1.0] * 50))


TWO = TrainingConfig(
    lr=1e-3, monitor="loss", patience=2, phases=(Phase(epochs=5, train=("head",)), Phase(epochs=3, lr=1e-5, freeze_norms=True))
)


def test_phases_follow_one_another():
    falling = figures(*(1 / (n + 1) for n in range(8)))
    found = [current(TWO, falling[:done]) for done in range(9)]
    assert [phase and (phase.number, phase.first_epoch) for phase in found] == [*[(0, 0)] * 5, *[(1, 5)] * 3, None]
    assert current(TWO, []) == first(TWO)
    assert [(phase.config.lr, phase.config.epochs) for phase in (found[0], found[5])] == [(1e-3, 5), (1e-5, 3)]
    assert found[5].phase == TWO.phases[1]


def test_a_phase_ends_by_its_own_patience():
    """The first gains nothing in epochs 1 and 2; the second counts anew, and ends after its three epochs."""
    history = figures(0.5, 0.6, 0.6, 0.8, 0.7, 0.9)
    found = [current(TWO, history[:done]) for done in range(7)]
    assert [phase and (phase.number, phase.first_epoch) for phase in found] == [*[(0, 0)] * 3, *[(1, 3)] * 3, None]


def test_one_phase_is_the_whole_run():
    config = TrainingConfig(epochs=2)
    assert config.by_phase == (config,)
    assert [current(config, figures(*[0.5] * done)) is None for done in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 2, "warmup_epochs": 2}, r"`warmup_epochs`.*fewer than `epochs`"),
        ({"warmup_epochs": 2, "phases": (Phase(epochs=2),)}, r"`warmup_epochs`.*fewer than `epochs`"),
        ({"same_augmentation_in_pairs": True}, r'`same_augmentation_in_pairs` needs `order` = "pairs", got .shuffle'),
        ({"label_smoothing": 0.5}, r"`label_smoothing` \(0.5\) must be below 0.5"),
        ({"label_smoothing": 0.1, "loss": "focal"}, r'`label_smoothing` is for `loss` = "bce"'),
        ({"loss": "focal", "alpha_mode": "per_class"}, r"`focal_alpha` \(1\) must be between 0 and 1 for `alpha_mode`"),
        ({"focal_alpha": 0.7}, r'`focal_alpha` is for `loss` = "focal": set it to 1.0 with "bce"'),
        ({"alpha_mode": "per_class"}, r'`alpha_mode` is for `loss` = "focal": set it to scalar with "bce"'),
        ({"batch_size": 5, "accumulate": 2}, r"`batch_size` \(5\) is no multiple of `accumulate`"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        TrainingConfig(**values)


@pytest.mark.parametrize(
    ("key", "value"),
    [("step_factor", 0), ("step_epochs", 0), ("plateau_factor", 1), ("plateau_patience", -1), ("min_lr", -1), ("min_delta", -1),
     ("layer_decay", 1.1), ("schedule", "linear"), ("plateau_monitor", "accuracy"), ("smoothing_reading", "half"),
     ("phases", [{"epochs": 0}])],
)  # fmt: skip
def test_a_value_out_of_range_names_its_key(key, value):
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert({key: value}, TrainingConfig)
