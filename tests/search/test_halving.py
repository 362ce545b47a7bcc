"""Who goes on, what the front is, and what is chosen: decided from figures alone."""

import itertools
import math

import pytest
from tiny_search import result

from edgedet.errors import UsageError
from edgedet.search import halving
from edgedet.search.halving import Limits
from edgedet.search.space import Trunk


def trunk(name: str) -> Trunk:
    return Trunk(name, 0, 1.0)


def test_one_in_eta_goes_on_the_best_at_its_worst_generator_first():
    """Each is slower than the one before, so none beats another in everything."""
    results = {trunk(f"t{i}"): [result(f"t{i}", worst=0.8 + i / 100, ms=1 + i)] for i in range(9)}
    assert halving.promoted(list(results), results, Limits(latency_ms=100), 3.0) == [trunk("t8"), trunk("t7"), trunk("t6")]


def test_what_exceeds_a_limit_on_cost_stops_however_accurate():
    results = {trunk("slow"): [result("slow", worst=0.99, ms=5)], trunk("fast"): [result("fast", worst=0.7, ms=1)]}
    assert halving.promoted(list(results), results, Limits(latency_ms=2), 2.0) == [trunk("fast")]
    assert halving.promoted(list(results), results, Limits(latency_ms=0.5), 2.0) == []


def test_a_measurement_just_above_its_limit_is_given_another_chance_but_not_chosen():
    limits = Limits(latency_ms=1.0, size_kb=50)
    assert not limits.hopeless(result(ms=1.09))
    assert limits.hopeless(result(ms=1.11))
    assert limits.hopeless(result(ms=0.9, kb=51))
    assert limits.hopeless(result(ms=1.0, error=0.01))
    assert halving.chosen([result(ms=1.09)], limits) is None


def test_a_speedup_told_apart_badly_is_given_another_chance_but_not_chosen():
    limits = Limits(speedup=40.0)
    assert limits.hopeless(result(speedup=27.5, high=30.0))
    assert not limits.hopeless(result(speedup=27.5, high=36.5))
    assert halving.chosen([result(speedup=27.5, high=46.0)], limits) is None


def test_what_may_fit_is_what_measuring_again_might_bring_within_the_limits():
    limits = Limits(speedup=40.0, drop=0.01)
    assert limits.may_fit(result(speedup=41.0, drop=0.01))
    assert limits.may_fit(result(speedup=38.0, drop=0.01))
    assert not limits.may_fit(result(speedup=41.0, drop=0.02))
    assert not limits.may_fit(result(speedup=20.0, drop=0.01))


def test_a_network_is_as_good_as_its_best_candidate_that_fits():
    both = [result("both", worst=0.95, kb=200), result("both", worst=0.85, kb=50)]
    results = {trunk("both"): both, trunk("other"): [result("other", worst=0.9, kb=60)]}
    assert halving.promoted(list(results), results, Limits(size_kb=100), 2.0) == [trunk("other")]
    assert halving.promoted(list(results), results, Limits(size_kb=300), 2.0) == [trunk("both")]


def test_what_is_beaten_in_everything_comes_last():
    """The third is less accurate than the second, but the second is beaten by the first in everything."""
    results = {
        trunk("best"): [result("best", worst=0.95, ms=1, kb=10)],
        trunk("beaten"): [result("beaten", worst=0.94, ms=2, kb=20)],
        trunk("small"): [result("small", worst=0.90, ms=1, kb=5)],
    }
    assert halving.promoted(list(results), results, Limits(latency_ms=9), 1.5) == [trunk("best"), trunk("small")]


def test_an_estimate_counts_with_its_error_on_top():
    assert not Limits(latency_ms=1.25).cost_excess(result(ms=1.0, error=0.2))
    assert Limits(latency_ms=1.15).cost_excess(result(ms=1.0, error=0.2)) == {"latency": pytest.approx(1.2 / 1.15 - 1)}


def test_the_bound_is_held_against_the_limit_not_the_drop():
    assert Limits(drop=0.01).excess(result(drop=0.012)) == {"drop": pytest.approx(0.2)}
    assert not Limits(drop=0.012).excess(result(drop=0.012))
    assert Limits(drop=0.01).excess(result(drop=math.inf))


def test_a_speedup_that_nobody_knows_does_not_hold():
    assert Limits(speedup=2).cost_excess(result(speedup=None)) == {"speed-up": math.inf}
    assert not Limits(speedup=2).cost_excess(result(speedup=2.0))


def test_a_failed_gate_of_the_teachers_is_never_chosen():
    lost = result("lost", worst=0.99, failed=("balanced_accuracy drop against ancestor",))
    assert halving.chosen([lost, result("kept", worst=0.8)], Limits(latency_ms=10)).trunk == "kept"


def test_the_front_is_what_no_other_beats():
    """Against the definition, pair by pair."""
    several = [
        result(str(i), worst=0.8 + (i * 7 % 10) / 50, ms=1 + (i * 3 % 10), kb=10 + (i * 9 % 10)) for i in range(10)
    ]
    slow = {
        one.name
        for one in several
        if not any(
            other.worst >= one.worst and other.latency_ms <= one.latency_ms and other.size_bytes <= one.size_bytes
            for other in several
            if other is not one
        )
    }
    front = halving.front(several)
    assert {each.name for each in front} == slow
    assert 1 < len(front) < 10
    assert all(a.latency_ms <= b.latency_ms for a, b in itertools.pairwise(front))


def test_energy_counts_where_both_have_it():
    thrifty, wasteful, unknown = result("a", ms=1.1, mj=1.0), result("b", ms=1.0, mj=2.0), result("c", ms=1.0)
    assert halving.front([thrifty, wasteful]) == [wasteful, thrifty]
    assert halving.front([thrifty, unknown]) == [unknown]


def test_limits_on_cost_choose_the_most_accurate_a_limit_on_accuracy_alone_the_fastest():
    fast, good = result("fast", worst=0.9, ms=1, drop=0.009), result("good", worst=0.95, ms=2, drop=0.001)
    assert halving.chosen([fast, good], Limits(latency_ms=3, drop=0.01)) is good
    assert halving.chosen([fast, good], Limits(latency_ms=1.5)) is fast
    assert halving.chosen([fast, good], Limits(drop=0.01)) is fast
    assert halving.chosen([fast, good], Limits(drop=0.005)) is good
    assert halving.chosen([fast, good], Limits(drop=0.0005)) is None


def test_the_nearest_exceeds_least_over_all_limits():
    limits = Limits(latency_ms=1.0, drop=0.01)
    far, near = result("far", ms=1.0, drop=0.05), result("near", ms=1.2, drop=0.012)
    assert halving.nearest([far, near], limits) is near


@pytest.mark.parametrize("given", [{}, {"latency_ms": -1.0}, {"drop": 0.0}, {"size_kb": math.inf}])
def test_limits_that_mean_nothing_are_refused(given):
    with pytest.raises(UsageError):
        Limits(**given)
