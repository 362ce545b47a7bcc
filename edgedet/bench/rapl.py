"""Electrical power of an x86 processor, from the energy counters that it keeps itself (RAPL, running average power limit).

The kernel shows them below ``/sys/class/powercap``, in microjoules, for each package and for what is inside of it; AMD's too,
under Intel's name. They are no sensors but the processor's own account, without the rest of the machine. A virtual machine has
none, and since 2020 (CVE-2020-8694) only root may read them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedet.errors import BenchError

_INTERVAL = 0.1  # seconds; a counter moves every millisecond, and wraps in minutes at the soonest


@dataclass(frozen=True)
class Zone:
    """One counter: microjoules up to `limit`, after which it begins again at zero."""

    name: str
    counter: Path
    limit: int

    def read(self) -> int:
        """Microjoules.

        Raises:
            BenchError: it cannot be read.
        """
        try:
            return int(self.counter.read_text())
        except (OSError, ValueError) as error:
            raise BenchError(f"{self.counter}: no energy can be read: {getattr(error, 'strerror', None) or error}") from error


class Rapl:
    """The power of all packages and of the memory that is counted beside them."""

    name = "rapl"
    scope = "processor packages and the memory that they count"

    def __init__(self, system: Path = Path("/sys"), clock: Callable[[], float] = time.monotonic) -> None:
        self._zones, self._clock = zones(system), clock

    def stream(self, stop: threading.Event) -> Iterator[dict[str, float]]:
        """Milliwatts by zone, each the mean since the last sample; it ends early when a counter cannot be read any more."""
        with contextlib.suppress(BenchError):  # too few samples are refused by who asked for them
            before, then = self._read(), self._clock()
            while not stop.wait(_INTERVAL):
                after, now = self._read(), self._clock()
                read = zip(self._zones, before, after, strict=True)
                yield {zone.name: spent(old, new, zone.limit) / (now - then) / 1000 for zone, old, new in read}
                before, then = after, now

    def _read(self) -> list[int]:
        return [zone.read() for zone in self._zones]


def spent(before: int, after: int, limit: int) -> int:
    """Microjoules between two readings, of which the later one may have wrapped at `limit`."""
    return after - before if after >= before else after - before + limit


def zones(system: Path = Path("/sys")) -> list[Zone]:
    """The packages, and memory (``dram``), which is inside of a package's folder but not of its count. Cores are of its count.

    ``intel-rapl-mmio`` shows the same packages again, and ``psys`` the whole board where it exists: neither is added.
    """
    found = []
    for folder in sorted((system / "class/powercap").glob("intel-rapl:*")):
        name, limit = _text(folder / "name"), _text(folder / "max_energy_range_uj")
        if name == "dram":
            package = _text((system / "class/powercap" / folder.name.rpartition(":")[0]) / "name")
            name = f"dram of {package}"
        elif not name.startswith("package"):
            continue
        if limit.isdigit():
            found.append(Zone(name, folder / "energy_uj", int(limit)))
    return found


def why_not(system: Path = Path("/sys")) -> str:
    """Why there is no power by RAPL here; an empty string when there is."""
    found = zones(system)
    if not found:
        return "no RAPL counters (a virtual machine has none)"
    try:
        for zone in found:
            zone.read()
    except BenchError as error:
        return f"its RAPL counters are for root alone ({error})" if "Permission" in str(error) else str(error)
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
