import itertools
from collections.abc import Collection, Sequence

import numpy as np
import pytest

from edgedet.quantize.cut import Wire, single_side


def casts(wires: Sequence[Wire], single: Collection[str]) -> int:
    """The number of tensors that somebody reads in another precision than they are made in."""
    return sum(any((reader in single) != (wire.maker in single) for reader in wire.readers) for wire in wires)


def fewest(wires: Sequence[Wire], single: set[str], half: set[str]) -> int:
    """By trying every choice."""
    names = {name for wire in wires for name in (wire.maker, *wire.readers)}
    free = sorted(names - single - half)
    choices = itertools.chain.from_iterable(itertools.combinations(free, size) for size in range(len(free) + 1))
    return min(casts(wires, single | set(chosen)) for chosen in choices)


def test_what_lies_between_two_single_nodes_is_single_as_well() -> None:
    chain = [Wire("a", ("b",)), Wire("b", ("c",)), Wire("c", ("d",)), Wire("d", ("e",))]
    assert single_side(chain, {"a", "d"}, {"e"}) == {"a", "b", "c", "d"}


def test_nothing_is_single_that_saves_no_cast() -> None:
    chain = [Wire("pixels", ("relu",)), Wire("relu", ("conv",))]
    assert single_side(chain, {"pixels"}, {"conv"}) == {"pixels"}


def test_one_cast_serves_all_readers() -> None:
    # Three readers in half of one single tensor: drawing them over would cost a cast behind each of them.
    wires = [Wire("a", ("b", "c", "d")), Wire("b", ("x",)), Wire("c", ("x",)), Wire("d", ("x",))]
    assert single_side(wires, {"a"}, {"x"}) == {"a"}


def test_layers_stay_in_half_whatever_it_costs() -> None:
    assert single_side([Wire("a", ("conv",)), Wire("conv", ("b",))], {"a", "b"}, {"conv"}) == {"a", "b"}


@pytest.mark.parametrize("seed", range(20))
def test_the_number_of_casts_is_the_least_that_any_choice_has(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"n{number}" for number in range(10)]
    wires = [
        Wire(maker, tuple(random.choice(names[position + 1 :], size=min(2, 9 - position), replace=False)))
        for position, maker in enumerate(names[:-1])
    ]
    fixed = random.permutation(names)
    single, half = set(fixed[:3].tolist()), set(fixed[3:5].tolist())
    chosen = single_side(wires, single, half)
    assert chosen >= single
    assert not chosen & half
    assert casts(wires, chosen) == fewest(wires, single, half)
