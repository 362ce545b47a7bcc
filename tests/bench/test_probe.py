import os
from pathlib import Path

import pytest

from edgedet.bench import probe
from edgedet.bench.probe import CpuTime, Device

CPUINFO = """processor\t: 0
model name\t: Some Processor 9000
cpu MHz\t\t: 2596.132
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8 hypervisor

processor\t: 1
model name\t: Another
"""


def files(root: Path, contents: dict[str, str]) -> tuple[Path, Path]:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "proc", root / "sys"


def test_the_device_is_read_from_the_system(tmp_path):
    frequency = "sys/devices/system/cpu/cpu0/cpufreq"
    found = probe.device(
        *files(
            tmp_path,
            {
                "proc/cpuinfo": CPUINFO,
                "proc/meminfo": "MemFree: 1 kB\nMemTotal:       2048 kB\n",
                f"{frequency}/scaling_governor": "performance\n",
                f"{frequency}/scaling_cur_freq": "1800000\n",
                f"{frequency}/cpuinfo_max_freq": "3500000\n",
            },
        )
    )
    assert found.name == "Some Processor 9000"
    assert found.flags == ("avx2", "avx512f", "avx512-vnni", "amx-int8", "virtual-machine")
    assert (found.memory_bytes, found.governor) == (2048 * 1024, "performance")
    assert (found.clock_mhz, found.max_clock_mhz) == (1800, 3500)
    assert found.cores is not None
    assert found.cores >= 1


def test_a_board_is_called_by_its_name(tmp_path):
    contents = {"proc/device-tree/model": "NVIDIA Jetson Orin Nano\0", "proc/cpuinfo": "Features : asimd asimddp\n"}
    found = probe.device(*files(tmp_path, contents))
    assert found.name == "NVIDIA Jetson Orin Nano"
    assert found.flags == ("neon", "dotprod")


def test_what_cannot_be_read_is_none(tmp_path):
    found = probe.device(tmp_path / "proc", tmp_path / "sys")
    assert found.name
    assert (found.flags, found.memory_bytes, found.governor, found.clock_mhz, found.power_mode) == ((), None, None, None, None)
    assert probe.cpu_time(tmp_path) is None


@pytest.mark.parametrize(("load", "warned"), [(None, False), (0.4, False), (1.2, True)])
def test_a_machine_that_is_busy_before_the_start_is_warned_of(load, warned):
    warning = probe.busy(Device(name="cpu", cores=4, load_average=load))
    assert (warning is not None) == warned
    if warning:
        assert "load average 1.20 on 4 cores" in warning


def test_the_processors_of_this_process_are_named():
    assert set(probe.device().affinity) == os.sched_getaffinity(0)


def test_a_processor_that_slows_itself_down_is_counted_and_said(tmp_path):
    assert probe.throttles(tmp_path) is None
    for cpu, core, package in ((0, "3\n", "4\n"), (11, "0\n", "4\n")):
        folder = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
        files(tmp_path, {f"{folder}/core_throttle_count": core, f"{folder}/package_throttle_count": package})
    assert probe.throttles(tmp_path / "sys") == 11
    assert (probe.since(11, 13), probe.since(None, 13), probe.since(11, None)) == (2, None, None)
    assert (probe.hot(None), probe.hot(0)) == (None, None)
    assert "slowed itself down for its heat during the run (2 counts)" in probe.hot(2)


def test_the_share_of_others_is_what_this_process_did_not_use():
    before = CpuTime(everyone=100, own=10, wall=0, processors=4)
    share = probe.others_share(before, CpuTime(everyone=116, own=16, wall=10, processors=4))
    assert share == pytest.approx(10 / 40)
    assert "other processes took 25%" in (probe.disturbed(share) or "")
    assert probe.disturbed(0.05) is None
    assert probe.disturbed(None) is None
    assert probe.others_share(None, before) is None


def test_processor_time_counts_all_but_idle_and_waiting(tmp_path):
    (tmp_path / "stat").write_text("cpu  100 20 30 9999 9999 5 6 39 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    found = probe.cpu_time(tmp_path)
    assert found is not None
    assert found.everyone == pytest.approx(200 / probe.os.sysconf("SC_CLK_TCK"))
    assert found.own > 0
