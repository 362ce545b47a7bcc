import numpy as np
import pytest

from edgedet.errors import TrainingError
from edgedet.training.batches import Plan
from edgedet.training.config import TrainingConfig


def plan(count=50, world=1, pairs=(), **config) -> Plan:
    return Plan(count, TrainingConfig(**{"batch_size": 8, **config}), world, pairs)


@pytest.mark.parametrize("order", ["shuffle", "fixed-batches"])
def test_no_image_comes_twice_in_an_epoch_and_each_epoch_has_its_order(order):
    epochs = [np.concatenate([batch.positions for batch in plan(order=order).epoch(epoch)]) for epoch in range(3)]
    for positions in epochs:
        assert len(positions) == len(set(positions.tolist())) == 48
        assert set(positions.tolist()) <= set(range(50))
    assert not np.array_equal(epochs[0], epochs[1])


def test_two_processes_take_the_micro_batches_that_one_accumulates():
    alone = plan(accumulate=2).epoch(3)
    first, second = (plan(world=2).epoch(3, rank) for rank in (0, 1))
    together = [batch for pair in zip(first, second, strict=True) for batch in pair]
    assert [batch.seed for batch in together] == [batch.seed for batch in alone]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        assert len(one.positions) == 4


def test_two_processes_that_accumulate_share_out_each_step():
    alone = plan(accumulate=4).epoch(0)
    shared = [plan(world=2, accumulate=2).epoch(0, rank) for rank in (0, 1)]
    for step in range(6):
        together = [batch for of in shared for batch in of[2 * step : 2 * step + 2]]
        assert [batch.seed for batch in together] == [batch.seed for batch in alone[4 * step : 4 * step + 4]]


def test_an_epoch_taken_up_in_the_middle_goes_on_with_the_same_batches():
    whole, rest = plan(accumulate=2).epoch(1), plan(accumulate=2).epoch(1, first_step=4)
    assert [batch.seed for batch in rest] == [batch.seed for batch in whole[8:]]
    np.testing.assert_array_equal(rest[0].positions, whole[8].positions)


def test_fixed_batches_keep_their_members():
    def members(epoch: int) -> set[frozenset[int]]:
        return {frozenset(batch.positions.tolist()) for batch in plan(order="fixed-batches").epoch(epoch)}

    assert members(0) == members(1) == members(7)
    shuffled = {frozenset(batch.positions.tolist()) for batch in plan().epoch(1)}
    assert shuffled != {frozenset(batch.positions.tolist()) for batch in plan().epoch(0)}


def test_the_seed_decides_the_order():
    first = plan(seed=1).epoch(0)[0].positions
    np.testing.assert_array_equal(first, plan(seed=1).epoch(0)[0].positions)
    assert not np.array_equal(first, plan(seed=2).epoch(0)[0].positions)


PAIRS = [f"{number // 2}" for number in range(50)]


def test_pairs_stay_in_one_batch_and_each_epoch_has_its_order():
    of = plan(order="pairs", accumulate=2, pairs=PAIRS)
    epochs = [np.concatenate([batch.positions for batch in of.epoch(epoch)]) for epoch in range(2)]
    for batch in (*of.epoch(0), *of.epoch(1)):
        assert np.unique(batch.positions // 2, return_counts=True)[1].tolist() == [2, 2]
    assert len(set(epochs[0].tolist())) == 48
    assert not np.array_equal(epochs[0], epochs[1])


def test_images_without_a_partner_are_among_the_pairs_and_none_is_lost():
    pairs = ["", "a", "b", "", "b", "c", "c", "a", "c", "d", "e", "e"]
    of = plan(count=12, order="pairs", batch_size=12, pairs=pairs)
    for epoch in range(20):
        (batch,) = of.epoch(epoch)
        assert sorted(batch.positions.tolist()) == list(range(12))
        couples = {frozenset(couple) for couple in batch.positions.reshape(-1, 2).tolist()}
        assert {frozenset({1, 7}), frozenset({2, 4}), frozenset({10, 11})} <= couples
        assert sum(couple < {5, 6, 8} for couple in couples) == 1


def test_a_photograph_with_several_reconstructions_meets_them_all_over_the_epochs():
    of = plan(count=8, order="pairs", pairs=["a"] * 4 + ["b"] * 4)
    beside_the_first = set()
    for epoch in range(40):
        couples = np.concatenate([batch.positions for batch in of.epoch(epoch)]).reshape(-1, 2)
        assert sorted(couples.ravel()) == list(range(8))
        assert all(left // 4 == right // 4 for left, right in couples)
        beside_the_first |= {int(other) for couple in couples if 0 in couple for other in couple if other}
    assert beside_the_first == {1, 2, 3}


def test_the_order_pairs_needs_pairs_and_even_batches():
    with pytest.raises(TrainingError, match=r"no two training images have the same `pair`.*training\.order=shuffle"):
        plan(order="pairs", pairs=[f"{number}" for number in range(50)])
    with pytest.raises(TrainingError, match=r"no two training images"):
        plan(order="pairs", pairs=[""] * 50)
    with pytest.raises(TrainingError, match=r"no two training images"):
        plan(order="pairs", pairs=[f"{number}" if number % 2 else "" for number in range(50)])
    with pytest.raises(TrainingError, match="3 images a forward pass would cut them: make it even"):
        plan(order="pairs", batch_size=6, accumulate=2, pairs=PAIRS)


def test_what_cannot_be_split_is_refused_with_a_number_that_can():
    with pytest.raises(TrainingError, match="3 processes x 2 micro-batches: make it a multiple of 6"):
        plan(world=3, accumulate=2)
    with pytest.raises(TrainingError, match="7 training images do not fill one batch of 8"):
        plan(count=7)
