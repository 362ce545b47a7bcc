"""What the machine is, and whether it was left in peace: processor, cores, clocks, governor, memory, load, versions.

Everything is read from the operating system, once; what cannot be read is None and never guessed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgedet.artifact import tool_versions
from edgedet.bench import powermode
from edgedet.data.parallel import usable_cores
from edgedet.recipe import Config

_FLAGS = (
    ("avx2", "avx2"),
    ("avx512f", "avx512f"),
    ("avx_vnni", "avx-vnni"),
    ("avx512_vnni", "avx512-vnni"),
    ("avx512_bf16", "avx512-bf16"),
    ("amx_int8", "amx-int8"),
    ("amx_bf16", "amx-bf16"),
    ("asimd", "neon"),
    ("asimddp", "dotprod"),
    ("i8mm", "i8mm"),
    ("sve", "sve"),
    ("hypervisor", "virtual-machine"),
)
BUSY_SHARE = 0.1
"""Above this share of the cores taken by others, figures are flagged."""


class Device(Config, frozen=True, kw_only=True):
    """One machine. Clocks are in MHz, memory in bytes; None means that the system does not tell.

    flags: what decides the speed of INT8, and whether the machine is virtual.
    cores: those this process may use. affinity: their numbers. load_average: over one minute, when the benchmark began.
    power_mode: a Jetson's, by name.
    """

    name: str
    system: str | None = None
    cores: int | None = None
    affinity: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    memory_bytes: int | None = None
    governor: str | None = None
    clock_mhz: float | None = None
    max_clock_mhz: float | None = None
    power_mode: str | None = None
    load_average: float | None = None


def device(proc: Path = Path("/proc"), system: Path = Path("/sys")) -> Device:
    """Describe this machine."""
    cpu = _cpuinfo(proc)
    have = set((cpu.get("flags") or cpu.get("Features") or "").split())
    frequency = system / "devices/system/cpu/cpu0/cpufreq"
    board = _read(proc / "device-tree/model")
    name = (board or "").strip("\0 ") or cpu.get("model name") or platform.processor() or platform.machine()
    return Device(
        name=name,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=usable_cores(),
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        flags=tuple(shown for flag, shown in _FLAGS if flag in have),
        memory_bytes=_memory(proc),
        governor=_read(frequency / "scaling_governor"),
        clock_mhz=_thousandth(_read(frequency / "scaling_cur_freq")) or _number(cpu.get("cpu MHz")),
        max_clock_mhz=_thousandth(_read(frequency / "cpuinfo_max_freq")),
        power_mode=powermode.current(),
        load_average=_load(),
    )


def busy(found: Device) -> str | None:
    """A warning when the load says that other work was running before the benchmark began."""
    load = found.load_average
    if load is None or load <= 0.25 * (found.cores or 1):
        return None
    return (
        f"load average {load:.2f} on {found.cores or 1} cores when the benchmark began: figures may be too slow; "
        "ratios within this run hold better than absolute figures"
    )


@dataclass(frozen=True)
class CpuTime:
    """Processor seconds since boot: of everyone (steal by other guests included), and of this process and its children.

    processors: how many everyone has, which may be more than this process may use.
    """

    everyone: float
    own: float
    wall: float
    processors: int


def cpu_time(proc: Path = Path("/proc")) -> CpuTime | None:
    """The processor time spent until now, None where the system does not tell."""
    lines = (_read(proc / "stat") or "").splitlines()
    fields = lines[0].split()[1:] if lines and lines[0].startswith("cpu ") else []
    if len(fields) < 8 or not hasattr(os, "sysconf"):
        return None
    user, nice, kernel, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    busy_ticks = user + nice + kernel + irq + softirq + steal
    times = os.times()
    processors = sum(re.match(r"cpu\d", line) is not None for line in lines)
    return CpuTime(busy_ticks / os.sysconf("SC_CLK_TCK"), sum(times[:4]), time.monotonic(), max(1, processors))


def others_share(before: CpuTime | None, after: CpuTime | None) -> float | None:
    """The share of all processors (0 to 1) that others took in between; None when it cannot be told."""
    if before is None or after is None or after.wall <= before.wall:
        return None
    foreign = (after.everyone - before.everyone) - (after.own - before.own)
    return min(1.0, max(0.0, foreign / ((after.wall - before.wall) * after.processors)))


def disturbed(share: float | None) -> str | None:
    """A warning when others took more than a tenth of the processors during the run."""
    if share is None or share <= BUSY_SHARE:
        return None
    return f"other processes took {share:.0%} of the processors during the run: read the ratios, not the milliseconds"


def throttles(system: Path = Path("/sys")) -> int | None:
    """How often the processors have slowed themselves down for their heat since boot; None where the kernel does not count.

    A package counts once for each core that it slows, so that zero and not zero are what the number tells.
    """
    counters = sorted(system.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"))
    counts = [int(text) for text in map(_read, counters) if text is not None and text.isdigit()]
    return sum(counts) if counts else None


def since(before: int | None, after: int | None) -> int | None:
    """What a counter counted in between; None when it cannot be told."""
    return None if before is None or after is None else after - before


def hot(throttled: int | None) -> str | None:
    """A warning when the processor slowed itself down during the run."""
    if not throttled:
        return None
    return f"the processor slowed itself down for its heat during the run ({throttled} counts): cool it and measure again"


def versions(*packages: str) -> dict[str, str]:
    """The versions that decide speed: edgedet, Python, platform and the runtimes among `packages` that are installed."""
    return tool_versions(*packages)


def _cpuinfo(proc: Path) -> dict[str, str]:
    """The first processor's block."""
    block = (_read(proc / "cpuinfo") or "").split("\n\n")[0]
    pairs: Iterable[tuple[str, str, str]] = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _memory(proc: Path) -> int | None:
    for line in (_read(proc / "meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _load() -> float | None:
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _thousandth(text: str | None) -> float | None:
    value = _number(text)
    return None if value is None else value / 1000
