import numpy as np
import pytest

from edgedet.data.augment.draws import Draws


def draw(kind: str, count=6, *, paired=False, seed=0):
    draws = Draws(np.random.default_rng(seed), count, paired=paired)
    return {
        "uniform": lambda: draws.uniform(-2, 3),
        "integers": lambda: draws.integers(1, 4),
        "chance": lambda: draws.chance(0.5),
        "ranks": lambda: draws.ranks(5),
    }[kind]()


KINDS = ("uniform", "integers", "chance", "ranks")


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind):
    np.testing.assert_array_equal(draw(kind), draw(kind))
    assert not np.array_equal(draw(kind, 50), draw(kind, 50, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_in_a_pair_get_the_same_and_pairs_differ(kind):
    drawn = draw(kind, 40, paired=True)
    np.testing.assert_array_equal(drawn[::2], drawn[1::2])
    np.testing.assert_array_equal(drawn[::2], draw(kind, 20))
    assert not all(np.array_equal(drawn[0], other) for other in drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_of_an_odd_number_is_alone(kind):
    assert len(draw(kind, 7, paired=True)) == 7


def test_numbers_stay_in_their_ranges():
    uniform, integers, ranks = draw("uniform", 500), draw("integers", 500), draw("ranks", 50)
    assert -2 <= uniform.min() < -1.5 < 2.5 < uniform.max() < 3
    assert set(integers) == {1, 2, 3, 4}
    assert (np.sort(ranks, axis=1) == np.arange(5)).all()
    assert draw("chance", 500).mean() == pytest.approx(0.5, abs=0.1)
