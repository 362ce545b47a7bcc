import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from timm.models import VisionTransformer
from tiny_training import CONFIG, EXACT, NETS, SIDE, ArraySet, Mortal, images, objective, run

from edgedet.data.augment import Augment
from edgedet.data.index import Index
from edgedet.errors import TrainingError
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.training import checkpoint, journal, loop, validation
from edgedet.training.config import Phase
from edgedet.training.losses import Supervised, supervised

SCRIPT = Path(__file__).parents[1] / "tiny_training.py"
STEPS = 40


def changed(config, **values):
    return msgspec.structs.replace(config, **values)


def assert_same(one, other, where="state"):
    """Bit for bit, through dictionaries and lists."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_same(value, other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    work = tmp_path_factory.mktemp("uninterrupted")
    result = run(work, CONFIG)
    return checkpoint.load(work), result


def start(*arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    if processes == 1:
        launcher = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=600
    )


def test_training_learns_the_checkerboard(uninterrupted):
    _, result = uninterrupted
    assert [line["epoch"] for line in result.history] == [0, 1, 2, 3, 4]
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.history[result.best_epoch]["auc"] > 0.9


def test_the_objective_is_told_how_many_images_it_is_trained_on(tmp_path):
    made = objective(changed(EXACT, epochs=1))
    run(tmp_path, made.config, made)
    assert made.images == 128


@pytest.mark.parametrize("step", [1, 8, 13, 39, 40])
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(uninterrupted, tmp_path, step):
    """Steps 8 and 40 are the last of an epoch: the run stops between training and validation."""
    with pytest.raises(loop.Interrupted, match=f"stopped at step {step} of 40; .*--resume"):
        run(tmp_path, CONFIG, objective(CONFIG, at=step))
    model = objective(CONFIG)
    result = run(tmp_path, CONFIG, model, resume=True)
    state, whole = uninterrupted
    assert_same(checkpoint.load(tmp_path), state)
    assert_same(result.history, whole.history)
    assert_same(dict(model.model.state_dict()), whole.state)


def test_a_killed_process_goes_on_from_its_last_save_with_the_same_bits(uninterrupted, tmp_path):
    step = int(np.random.default_rng().integers(2, STEPS))
    config = msgspec.json.encode(CONFIG).decode()
    killed = start("fit", str(tmp_path), "--config", config, "--at", str(step), "--kind", str(int(signal.SIGKILL)),
                   "--save-every", "0")  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.load(tmp_path)["step"] == step - 1
    run(tmp_path, CONFIG, resume=True)
    assert_same(checkpoint.load(tmp_path), uninterrupted[0])


def test_a_terminated_process_saves_at_the_step_it_is_in(uninterrupted, tmp_path):
    step = int(np.random.default_rng().integers(1, STEPS))
    stopped = start("fit", str(tmp_path), "--config", msgspec.json.encode(CONFIG).decode(), "--at", str(step))
    assert f"stopped at step {step} of 40" in stopped.stderr
    run(tmp_path, CONFIG, resume=True)
    assert_same(checkpoint.load(tmp_path), uninterrupted[0])


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_two_processes_end_where_one_that_accumulates_ends(tmp_path, net):
    two = start("fit", str(tmp_path / "two"), "--config", msgspec.json.encode(EXACT).decode(), "--net", net, processes=2)
    assert two.returncode == 0, two.stderr
    run(tmp_path / "one", changed(EXACT, accumulate=2), objective(EXACT, net))
    one, two = (checkpoint.load(tmp_path / name)["objective"] for name in ("one", "two"))
    for name, weights in objective(EXACT, net).named_parameters():
        assert not torch.equal(one[name], weights), f"{name} was not trained"
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0)


def test_a_finished_run_is_only_read_again(uninterrupted, tmp_path):
    result = run(tmp_path, EXACT)
    before = checkpoint.load(tmp_path)
    again = run(tmp_path, EXACT, objective(EXACT, at=1, kind=signal.SIGKILL), resume=True)
    assert_same(checkpoint.load(tmp_path), before)
    assert_same(again.state, result.state)


@pytest.mark.parametrize("change", [{"lr": 0.02}, {"seed": 1}, {"epochs": 3}])
def test_a_run_with_other_settings_is_not_resumed(tmp_path, change):
    run(tmp_path, changed(EXACT, epochs=1))
    with pytest.raises(TrainingError, match=r"other settings.*remove the folder"):
        run(tmp_path, changed(EXACT, **{"epochs": 1, **change}), resume=True)


def test_a_run_of_another_network_is_not_resumed(tmp_path):
    config = changed(EXACT, epochs=1)
    run(tmp_path, config)
    other = objective(config)
    other.model.net.head = torch.nn.Linear(8, 2)
    with pytest.raises(TrainingError, match="another network"):
        run(tmp_path, config, other, resume=True)


def test_a_damaged_state_is_an_error_that_says_what_to_remove(tmp_path):
    run(tmp_path, changed(EXACT, epochs=1))
    file = tmp_path / checkpoint.STATE
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(TrainingError, match=r"damaged.*remove"):
        run(tmp_path, changed(EXACT, epochs=1), resume=True)


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_validated(tmp_path):
    config = changed(EXACT, optimizer="sgd", lr=1e30)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step .*lower training.lr"):
        run(tmp_path, config)
    figures = tmp_path / journal.METRICS
    assert not figures.exists() or "validation" not in figures.read_text()


OVERCONFIDENT = changed(EXACT, epochs=5, lr=0.03, schedule="constant")
"""With three validation labels in ten wrong, the loss rises again when the network becomes sure of itself."""


def test_the_best_epoch_is_what_is_left_in_the_model(tmp_path):
    val = images("val", 60, mislabelled=3)
    made = objective(OVERCONFIDENT)
    result = run(tmp_path, OVERCONFIDENT, made, val)
    losses = [line["loss"] for line in result.history]
    assert result.best_epoch == int(np.argmin(losses)) < 4
    figures = validation.validation_figures(validation.logits_of(made.model, val), val.index.labels)
    assert figures["loss"] == pytest.approx(min(losses), rel=1e-4)


def test_patience_ends_a_run_that_no_longer_improves(tmp_path):
    val = images("val", 60, mislabelled=3)
    whole = run(tmp_path / "whole", OVERCONFIDENT, val=val).history
    patient = run(tmp_path / "patient", changed(OVERCONFIDENT, patience=1), val=val).history
    losses = [line["loss"] for line in whole]
    first_worse = next(n for n in range(1, 5) if losses[n] >= min(losses[:n]))
    assert_same(patient, whole[: first_worse + 1])


def test_a_frozen_network_is_refused(tmp_path):
    made = objective(EXACT)
    made.requires_grad_(False)
    with pytest.raises(TrainingError, match="every parameter is frozen"):
        run(tmp_path, EXACT, made)


def test_a_set_smaller_than_a_batch_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="128 training images do not fill one batch of 256"):
        run(tmp_path, changed(EXACT, batch_size=256))


def test_a_look_at_the_validation_split_between_epochs_changes_nothing(phased, tmp_path):
    """Frozen norms included: looking puts the network into evaluation mode and back."""
    result = run(tmp_path, changed(PHASED, validate_every=3))
    assert_same(result.state, phased[0].state)
    assert_same(result.history, phased[0].history)
    lines = [json.loads(line) for line in (tmp_path / journal.METRICS).read_text().splitlines()]
    looks = [line for line in lines if line["event"] == "validation_step"]
    assert [line["step"] for line in looks] == [*range(3, 40, 3)]
    last = next(line for line in lines if line["event"] == "validation" and line["step"] == 24)
    assert next(look for look in looks if look["step"] == 24)["loss"] == last["loss"]


class TinyViT(torch.nn.Module):
    """timm's, at 16 pixels."""

    def __init__(self):
        super().__init__()
        self.vit = VisionTransformer(
            img_size=SIDE, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=1, drop_path_rate=0.1
        )

    def forward(self, x):
        return self.vit(x)


def test_layers_that_learn_at_different_rates_resume_with_the_same_bits(tmp_path):
    config = changed(EXACT, layer_decay=0.5, weight_decay=0.1, decay_norms=False, schedule="step", step_epochs=1)

    def made(at=0):
        torch.manual_seed(0)
        return Mortal(PixelModel(TinyViT(), Preprocess(height=SIDE, width=SIDE)), config, at, signal.SIGTERM)

    whole = made()
    before = {name: tensor.detach().clone() for name, tensor in whole.model.net.named_parameters()}
    run(tmp_path / "whole", config, whole)
    with pytest.raises(loop.Interrupted):
        run(tmp_path / "parts", config, made(at=11))
    run(tmp_path / "parts", config, made(), resume=True)
    state = checkpoint.load(tmp_path / "whole")
    assert_same(checkpoint.load(tmp_path / "parts"), state)
    groups = state["optimizer"]["param_groups"]
    # The head's rate is one, the blocks' a half and a quarter, the patches' an eighth; after one step of the schedule a tenth.
    assert {(group["lr_scale"], group["weight_decay"]) for group in groups} == {
        (scale, decay) for scale in (1.0, 0.5, 0.25, 0.125) for decay in (0.0, 0.1)
    }
    assert all(group["lr"] == pytest.approx(0.001 * group["lr_scale"]) for group in groups)
    moved = {name: float((state["objective"][f"model.net.{name}"] - tensor).abs().max()) for name, tensor in before.items()}
    assert moved["vit.head.weight"] > 2 * moved["vit.patch_embed.proj.weight"] > 0


def test_figures_of_steps_that_are_taken_again_are_written_once(tmp_path):
    config = changed(EXACT, log_every=2)
    with pytest.raises(loop.Interrupted):
        run(tmp_path, config, objective(config, at=11))
    with (tmp_path / journal.METRICS).open("a") as file:
        file.write('{"event": "step", "epoch": 1, "step": 12, "train_loss": 0.1}\n{"event": "st')
    run(tmp_path, config, resume=True)
    lines = [json.loads(line) for line in (tmp_path / journal.METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert [line["epoch"] for line in lines if line["event"] == "validation"] == [0, 1]


PHASED = changed(
    CONFIG,
    schedule="plateau",
    plateau_patience=0,
    phases=(Phase(epochs=2, train=("head",)), Phase(epochs=3, lr=0.003, train=("features.3", "features.4"), freeze_norms=True)),
)
"""Forty steps: the head alone, then the second convolution alone."""


@pytest.fixture(scope="module")
def phased(tmp_path_factory):
    work = tmp_path_factory.mktemp("phased")
    made = objective(PHASED)
    result = run(work, PHASED, made)
    return result, checkpoint.load(work), made.model.net


def test_each_phase_trains_its_part_and_leaves_the_rest_to_the_bit(phased):
    result, state, net = phased
    assert len(result.history) == 5
    fresh = dict(objective(PHASED).model.state_dict())
    moved = {name for name, tensor in fresh.items() if not torch.equal(state["objective"][f"model.{name}"], tensor)}
    assert moved == {"net.head.weight", "net.head.bias", "net.features.3.weight"}
    assert all(parameter.requires_grad for parameter in net.parameters()), "what is frozen is a matter of the run"


@pytest.mark.parametrize("step", [9, 16, 17, 30])
def test_a_run_in_phases_stopped_at_any_step_ends_with_the_same_bits(phased, tmp_path, step):
    """Step 16 is the last of the first phase: the run stops before the validation that ends it."""
    with pytest.raises(loop.Interrupted, match=f"stopped at step {step} of 40"):
        run(tmp_path, PHASED, objective(PHASED, at=step))
    result = run(tmp_path, PHASED, resume=True)
    whole, state, _ = phased
    assert_same(checkpoint.load(tmp_path), state)
    assert_same(result.history, whole.history)


def test_a_run_killed_between_two_phases_ends_with_the_same_bits(phased, tmp_path):
    """The last state on disk is the one saved at the end of the first phase, with the optimiser of the head alone."""
    first = run(tmp_path, changed(PHASED, phases=PHASED.phases[:1]))
    whole, state, _ = phased
    checkpoint.save({**checkpoint.load(tmp_path), "config": state["config"]}, tmp_path)
    assert_same(run(tmp_path, PHASED, resume=True).history, whole.history)
    assert_same(checkpoint.load(tmp_path), state)
    said = (tmp_path / journal.LOG).read_text()
    assert said.count(f"phase 2/2 begins from the weights of epoch {first.best_epoch + 1}") == 1


def test_a_phase_begins_from_the_best_weights_of_the_one_before(tmp_path):
    """The first phase gets worse after its best epoch; the second, too slow to change anything, stands where that was."""
    val = images("val", 60, mislabelled=3)
    phases = (Phase(patience=2), Phase(epochs=1, lr=1e-12, freeze_norms=True))
    result = run(tmp_path, changed(OVERCONFIDENT, phases=phases), val=val)
    losses = [line["loss"] for line in result.history[:-1]]
    assert losses[-1] > min(losses)
    assert result.history[-1]["loss"] == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.slow
def test_two_processes_in_phases_end_where_one_that_accumulates_ends(tmp_path):
    """Frozen parameters have no gradient to wait for, and each phase has others."""
    phases = (Phase(epochs=1, train=("head", "features.3")), Phase(epochs=1))
    config = changed(EXACT, freeze=("features.1",), phases=phases, schedule="step", step_epochs=1)
    two = start("fit", str(tmp_path / "two"), "--config", msgspec.json.encode(config).decode(), processes=2)
    assert two.returncode == 0, two.stderr
    run(tmp_path / "one", changed(config, accumulate=2))
    one, two = (checkpoint.load(tmp_path / name)["objective"] for name in ("one", "two"))
    before = dict(objective(EXACT).state_dict())
    unchanged = {name for name in before if torch.equal(one[name], before[name])}
    assert unchanged == {f"model.net.features.1.{name}" for name in
                         ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}  # fmt: skip
    for name, _ in objective(EXACT).named_parameters():
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0)
    assert all(torch.equal(two[name], before[name]) for name in unchanged)


class Watching(Supervised):
    """Keeps what it is trained on."""

    def __init__(self, model, config):
        super().__init__(model, config)
        self.batches = []

    def loss(self, batch):
        self.batches.append(batch)
        return super().loss(batch)


@pytest.mark.parametrize("synced", [False, True])
def test_both_images_of_a_pair_are_cropped_and_degraded_alike_when_asked(tmp_path, synced):
    """The pairs of this set are the same picture twice, so whatever differs is the augmentation's doing."""
    augment = Augment(shift=3, jpeg=0.5, noise=0.5)
    config = changed(EXACT, epochs=1, order="pairs", same_augmentation_in_pairs=synced, augment=augment)
    singles = images("train", 64)
    rows = [msgspec.structs.replace(singles.index.rows[n // 2], pair=f"{n // 2}") for n in range(128)]
    twins = ArraySet(Index(Path("unused"), tuple(rows)), singles.pixels.repeat(2, axis=0))
    made = Watching(objective(config).model, config)
    loop.fit(made, loop.Task(config, twins, images("val", 64), tmp_path))
    assert len(made.batches) == 8
    same = [torch.equal(batch.pixels[::2], batch.pixels[1::2]) for batch in made.batches]
    assert same == [synced] * 8


def test_a_network_held_to_its_degraded_views_resumes_with_the_same_bits(tmp_path):
    """The state of both views, and of the masks that they share, is in the seed of the batch."""
    augment = Augment(shift=2, jpeg=0.5, noise=0.5, mask=0.5, mask_patch=4)
    config = changed(EXACT, consistency_weight=0.5, augment=augment)

    def made():
        return supervised(objective(config).model, "head", config)

    run(tmp_path / "whole", config, made())
    stopping = made()
    stopping.register_forward_pre_hook(Countdown(5))
    with pytest.raises(loop.Interrupted, match="stopped at step 5 of 16"):
        run(tmp_path / "parts", config, stopping)
    run(tmp_path / "parts", config, made(), resume=True)
    assert_same(checkpoint.load(tmp_path / "parts"), checkpoint.load(tmp_path / "whole"))


class Countdown:
    """A hook that asks the process to stop in the call of that number."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_only_a_network_held_to_its_degraded_views_is_given_them(tmp_path):
    config = changed(EXACT, epochs=1, augment=Augment(jpeg=1.0))
    made = Watching(objective(config).model, config)
    run(tmp_path, config, made)
    assert all(batch.degraded is None for batch in made.batches)


def test_consistency_without_degradations_is_refused():
    with pytest.raises(ValueError, match="`consistency_weight` needs degraded images: set one of blur, resize, noise, webp"):
        changed(EXACT, consistency_weight=0.5)
