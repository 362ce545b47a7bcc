"""Energy counters in a sysfs tree as the kernel makes it: two packages, what is inside of them, and what shows them again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgedet.bench import power, rapl
from edgedet.errors import BenchError

TREE = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
}
LIMIT = 1_000_000


@pytest.fixture
def system(tmp_path) -> Path:
    """Counters of half their limit; the folder of the driver itself has none."""
    for folder, name in TREE.items():
        place = tmp_path / "class/powercap" / folder
        place.mkdir(parents=True)
        (place / "name").write_text(f"{name}\n")
        (place / "max_energy_range_uj").write_text(f"{LIMIT}\n")
    (tmp_path / "class/powercap/intel-rapl").mkdir()
    write(tmp_path, **dict.fromkeys(TREE, LIMIT // 2))
    return tmp_path


def write(system: Path, **microjoules: int) -> None:
    for folder, value in microjoules.items():
        (system / "class/powercap" / folder / "energy_uj").write_text(f"{value % LIMIT}\n")


class Machine:
    """A clock and its stop: with every wait half a second passes, in which each zone spends so many microjoules."""

    def __init__(self, system: Path, spending: dict[str, int], samples: int) -> None:
        self.system, self.spending, self.left, self.now = system, spending, samples, 0.0
        self.counted = dict.fromkeys(spending, LIMIT // 2)

    def wait(self, _: float) -> bool:
        self.now += 0.5
        self.left -= 1
        self.counted = {name: value + self.spending[name] for name, value in self.counted.items()}
        write(self.system, **self.counted)
        return self.left < 0


def test_packages_and_their_memory_are_counted_once(system):
    assert [zone.name for zone in rapl.zones(system)] == ["package-0", "dram of package-0", "package-1"]


def test_power_is_energy_by_time_also_where_a_counter_wraps(system):
    spending = {"intel-rapl:0": 300_000, "intel-rapl:0:1": 50_000, "intel-rapl:1": 1_000, "intel-rapl:2": 9}
    machine = Machine(system, spending, samples=5)
    found = list(rapl.Rapl(system, clock=lambda: machine.now).stream(machine))
    assert machine.counted["intel-rapl:0"] > 2 * LIMIT  # it has wrapped twice
    assert found == [pytest.approx({"package-0": 600, "dram of package-0": 100, "package-1": 2})] * 5  # milliwatts
    assert power.counted(found[0]) == ("dram of package-0", "package-0", "package-1")


@pytest.mark.parametrize(("before", "after", "spent"), [(5, 5, 0), (5, 9, 4), (LIMIT - 1, 0, 1), (LIMIT - 10, 20, 30)])
def test_what_was_spent_between_two_readings(before, after, spent):
    assert rapl.spent(before, after, LIMIT) == spent


def test_why_there_is_none_is_said(system, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert rapl.why_not(system) == ""
    found = power.find(system)
    assert found is not None
    assert (found.name, found.scope) == ("rapl", "processor packages and the memory that they count")
    (system / "class/powercap/intel-rapl:1/energy_uj").write_text("nonsense")
    assert "intel-rapl:1/energy_uj: no energy can be read" in rapl.why_not(system)
    assert power.find(system) is None
    nothing = "neither tegrastats nor INA3221 sensors, and no RAPL counters (a virtual machine has none)"
    assert power.why_not(tmp_path / "nowhere") == f"this machine has {nothing}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_counters_for_root_alone_are_said_to_be(system):
    (system / "class/powercap/intel-rapl:0/energy_uj").chmod(0)
    assert "its RAPL counters are for root alone" in rapl.why_not(system)


def test_a_counter_that_goes_away_ends_the_samples(system):
    machine = Machine(system, {"intel-rapl:0": 1}, samples=3)
    stream = rapl.Rapl(system, clock=lambda: machine.now).stream(machine)
    next(stream)
    (system / "class/powercap/intel-rapl:1/energy_uj").unlink()
    assert list(stream) == []
    with pytest.raises(BenchError, match="intel-rapl:1/energy_uj: no energy can be read: No such file"):
        rapl.zones(system)[2].read()
