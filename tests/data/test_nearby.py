import numpy as np

from edgedet.data.index import Row
from edgedet.data.nearby import Near, near_duplicates


def rows(count: int, **fields: str) -> list[Row]:
    return [Row(path=f"{number}.png", label=0, sha256=f"{number}", **fields) for number in range(count)]


def test_couples_within_three_bits_are_all_found_and_no_others():
    """Against all couples by brute force, on random fingerprints with planted neighbours."""
    rng = np.random.default_rng(0)
    values = [int(value) for value in rng.integers(1, 2**63, 60, dtype=np.uint64)]
    for number in range(20):
        bits = rng.choice(64, size=number % 6, replace=False)
        values.append(values[number] ^ sum(1 << int(bit) for bit in bits))
    found = {(each.first, each.second): each.bits for each in near_duplicates(rows(len(values)), values)}
    expected = {
        (first, second): (values[first] ^ values[second]).bit_count()
        for first in range(len(values))
        for second in range(first + 1, len(values))
        if (values[first] ^ values[second]).bit_count() <= 3
    }
    assert found == expected
    assert len(expected) >= 13


def test_a_photograph_and_its_reconstruction_are_no_duplicates():
    assert near_duplicates(rows(2, pair="a"), [5, 5]) == []
    copies = [Row(path=name, label=0, sha256="same", pair="a") for name in "xy"]
    assert near_duplicates(copies, [5, 5]) == [Near(0, 1, 0, same=True)]


def test_images_that_show_nothing_match_nothing():
    assert near_duplicates(rows(3), [0, 0, 0]) == []


def test_a_pattern_that_very_many_share_costs_no_square():
    many = near_duplicates(rows(3000), [0xF0F0] * 3000)
    assert len(many) == 2999
    assert all(each.bits == 0 for each in many)
