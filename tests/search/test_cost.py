"""What a candidate costs here: beside the teacher's graph in one run, with its energy where something measures it."""

import pytest
from tiny_search import QUICK

from edgedet import target
from edgedet.artifact import Artifact
from edgedet.bench import power
from edgedet.search import cost, run
from edgedet.search.cost import Timing

HERE = target.resolve("host")


class Package:
    """4 W at rest, 9 W from the second time on that somebody asks."""

    name, scope = "rapl", "packages"

    def __init__(self):
        self.drawn = iter([4000.0])

    def stream(self, stop):
        drawn = next(self.drawn, 9000.0)
        while not stop.wait(0.002):
            yield {"package-0": drawn}


@pytest.fixture
def graphs(found, folder) -> tuple[Artifact, Artifact]:
    """The teacher's and a student's."""
    student = found.results["student-keep1-int8"]
    return Artifact.load(folder / run.TEACHER), Artifact.load(folder / student.path)


def test_energy_is_what_is_drawn_above_rest(graphs, monkeypatch):
    monkeypatch.setattr(power, "_SETTLE", 0.0)
    monkeypatch.setattr(power, "find", Package)
    measured, drawn = power.measure, []
    monkeypatch.setattr(power, "measure", lambda *given: drawn.append(measured(*given)) or drawn[-1])
    (paid,) = cost.of(graphs[1:], graphs[0], HERE, Timing(QUICK.rules, 1, power_seconds=0.05))
    assert paid.kind == "measured"
    (load,) = drawn[-1].loads  # the teacher's is the first
    assert load.above_idle_mw == pytest.approx(5000)
    assert paid.energy_mj == pytest.approx(5000 / load.images_per_second)


def test_a_measured_speedup_comes_with_the_upper_end_of_its_interval(graphs):
    (paid,) = cost.of(graphs[1:], graphs[0], HERE, QUICK)
    assert paid.speedup_high >= paid.speedup > 0


def test_what_draws_no_more_than_rest_has_no_figure(graphs, monkeypatch):
    class Steady(Package):
        def __init__(self):
            self.drawn = iter([9000.0])

    monkeypatch.setattr(power, "_SETTLE", 0.0)
    monkeypatch.setattr(power, "find", Steady)
    (paid,) = cost.of(graphs[1:], graphs[0], HERE, Timing(QUICK.rules, 1, power_seconds=0.05))
    assert paid.energy_mj is None


def test_without_sensors_there_is_no_figure(graphs, monkeypatch):
    monkeypatch.setattr(power, "find", lambda: None)
    (paid,) = cost.of(graphs[1:], graphs[0], HERE, QUICK)
    assert paid.energy_mj is None
    assert paid.latency_ms > 0
    assert paid.speedup > 0
