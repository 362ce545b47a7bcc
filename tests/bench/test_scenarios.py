import gc

import numpy as np
import pytest

from edgedet.bench import scenarios
from edgedet.bench.scenarios import Cycle, Rules
from edgedet.errors import BenchError

MS = 1_000_000


class Machine:
    """A clock that only moves when a runner works, and a record of who worked when."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now

    def runner(self, name: str, *milliseconds: float):
        """Takes the given times in turn; the last one stays."""
        times = list(milliseconds)

        def run() -> None:
            self.calls.append(name)
            self.now += round((times.pop(0) if len(times) > 1 else times[0]) * MS)

        return run

    def blocks(self) -> list[str]:
        """Who worked, one name for each run of consecutive calls."""
        return [name for before, name in zip([None, *self.calls], self.calls, strict=False) if name != before]


RULES = Rules(seconds=0.1, min_runs=10, max_seconds=0.4, rounds=4, warmup_seconds=0.01, settle_seconds=0.003)


def test_single_stream_times_each_call():
    machine = Machine()
    found = scenarios.single_stream(machine.runner("a", 2), RULES, machine)
    assert (found.p50_ms, found.p90_ms, found.mean_ms, found.cov) == (2.0, 2.0, 2.0, 0.0)
    # 100 ms of calls of 2 ms, shared out over 4 rounds of 25 ms: 13 calls reach each.
    assert found.n == 52


def test_a_slow_runner_is_timed_until_it_has_its_runs_or_its_time_is_over():
    machine = Machine()
    enough = scenarios.single_stream(machine.runner("a", 20), RULES, machine)
    assert enough.n == 12  # 10 runs over 4 rounds: 3 each, 240 ms in all
    cut_off = scenarios.single_stream(machine.runner("a", 60), RULES, machine)
    assert cut_off.n == 8  # 400 ms are over after 2 calls in each round
    assert cut_off.p99_reason == "p99 needs 1,000 runs, there were 8"


def test_runners_take_turns_and_none_is_always_first():
    machine = Machine()
    runners = {"a": machine.runner("a", 1), "b": machine.runner("b", 3)}
    scenarios.compare(runners, baseline="a", rules=RULES, clock=machine)
    warm_up, rounds = machine.blocks()[:2], machine.blocks()[1:]
    assert warm_up == ["a", "b"]
    # b warms up last; then a b, b a, b a, a b: blocks of one runner that meet are one.
    assert rounds == ["b", "a", "b", "a", "b", "a", "b"]


def test_the_ratio_is_that_of_the_runners():
    machine = Machine()
    runners = {"slow": machine.runner("slow", 6), "fast": machine.runner("fast", 2)}
    found = scenarios.compare(runners, baseline="slow", rules=RULES, clock=machine)
    ratio = found.ratio("fast")
    assert (ratio.baseline, ratio.value, ratio.low, ratio.high, ratio.rounds) == ("slow", 3.0, 3.0, 3.0, 4)
    assert found.ratio("slow", "fast").value == pytest.approx(1 / 3)
    assert found.ratio("slow").value == 1.0


def test_calls_before_a_block_is_settled_are_not_counted():
    machine = Machine()
    rules = Rules(seconds=0.01, max_seconds=0.01, min_runs=1, rounds=1, warmup_seconds=0.01, settle_seconds=0.003)
    warm = scenarios.warm_up(machine.runner("a", 1), rules, machine).calls
    before = len(machine.calls)
    found = scenarios.single_stream(machine.runner("a", 1), rules, machine)
    assert found.n == 10
    assert len(machine.calls) - before == warm + 3 + 10


def test_warm_up_lasts_its_time_at_least():
    machine = Machine()
    found = scenarios.warm_up(machine.runner("a", 1), Rules(), machine)
    assert (found.milliseconds, found.calls, found.stable) == (200.0, 200, True)


def test_warm_up_goes_on_until_the_runner_is_steady():
    machine = Machine()
    cooling = [100 - 10 * step for step in range(9)]
    found = scenarios.warm_up(machine.runner("a", *cooling, 10), Rules(), machine)
    assert found.stable
    assert found.milliseconds > sum(cooling)


def test_a_runner_that_never_steadies_is_measured_all_the_same_and_said_to_be_unsteady():
    machine = Machine()
    found = scenarios.warm_up(machine.runner("a", *[40, 80] * 100, 1), Rules(), machine)
    assert not found.stable
    assert 2_000 <= found.milliseconds <= 2_080


def test_throughput_is_all_images_over_all_time_at_each_batch_size():
    machine = Machine()
    makers = {"a": lambda batch: machine.runner("a", 1 + batch), "b": lambda batch: machine.runner("b", 2 * batch)}
    found = scenarios.offline(makers, batches=(4, 1, 16), rules=RULES, clock=machine)
    assert [point.batch for point in found["a"]] == [1, 4, 16]
    assert [point.images_per_second for point in found["a"]] == pytest.approx([1000 / 2, 4000 / 5, 16000 / 17])
    assert [point.images_per_second for point in found["b"]] == pytest.approx([500, 500, 500])


def test_a_batch_size_whose_call_would_take_too_long_is_left_out():
    machine = Machine()
    makers = {"a": lambda batch: machine.runner("a", batch), "slow": lambda batch: machine.runner("slow", 500 * batch)}
    found = scenarios.offline(makers, batches=(1, 4, 16), rules=RULES, clock=machine)
    assert [point.batch for point in found["a"]] == [1, 4, 16]
    assert [point.batch for point in found["slow"]] == [1, 4]


def test_the_best_thread_count_is_measured():
    machine = Machine()
    milliseconds = {1: 4.0, 2: 2.5, 4: 3.0}
    found = scenarios.best_threads(
        lambda threads: machine.runner(str(threads), milliseconds[threads]), [1, 2, 4], rules=RULES, clock=machine
    )
    assert found.threads == 2
    assert found.p50_ms == milliseconds


def test_thread_candidates_end_with_all_cores(monkeypatch):
    monkeypatch.setattr(scenarios, "usable_cores", lambda: 6)
    assert scenarios.thread_candidates() == (1, 2, 4, 6)
    monkeypatch.setattr(scenarios, "usable_cores", lambda: 1)
    assert scenarios.thread_candidates() == (1,)
    monkeypatch.setattr(scenarios, "usable_cores", lambda: 8)
    assert scenarios.thread_candidates() == (1, 2, 4, 8)


def test_the_harness_reports_what_it_costs_itself():
    found = scenarios.overhead()
    assert found.n >= 1_000
    assert found.p99_ms is not None
    assert 0 < found.p50_ms <= found.p90_ms


def test_no_garbage_is_collected_while_the_clock_runs():
    machine = Machine()
    states = []
    timed = machine.runner("a", 1)

    def runner() -> None:
        states.append(gc.isenabled())
        timed()

    assert gc.isenabled()
    scenarios.single_stream(runner, RULES, machine)
    assert states
    assert not any(states)
    assert gc.isenabled()


def test_collection_is_switched_on_again_after_a_failure():
    def fails() -> None:
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        scenarios.single_stream(fails, RULES)
    assert gc.isenabled()


def test_inputs_are_taken_in_turn():
    seen: list[int] = []
    runner = Cycle(seen.append, [1, 2, 3])
    for _ in range(5):
        runner()
    assert seen == [1, 2, 3, 1, 2]
    with pytest.raises(BenchError, match="at least one input"):
        Cycle(seen.append, [])


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": 5, "max_seconds": 4}, {"rounds": 0}, {"min_runs": 0}])
def test_rules_that_time_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Rules(**wrong)


def test_a_baseline_that_is_not_measured_is_refused():
    with pytest.raises(BenchError, match="'c' is none of what is measured: a, b"):
        scenarios.compare({"a": np.ones, "b": np.ones}, baseline="c")
