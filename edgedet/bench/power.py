"""Electrical power, from the board's own sensors: at rest before a model is loaded, and while it runs.

A Jetson has INA3221 sensors (Thor an INA238 as well), one channel a rail. ``tegrastats`` prints the rails, and the kernel shows
those of the INA3221 below ``/sys``, also inside a container. NVML, which tells the power of a graphics card, is not supported
on these boards. An x86 processor has counters of energy (`edgedet.bench.rapl`). A machine without either has no power figures.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgedet.bench import rapl
from edgedet.errors import BenchError
from edgedet.recipe import Config

log = logging.getLogger(__name__)

Rails = Mapping[str, float]
"""Milliwatts by the name of the rail, at one moment."""

WHOLE = {"VDD_IN": "module", "VIN": "module and carrier board"}
"""A rail that all others hang on: VDD_IN on Orin Nano and Orin NX, VIN on AGX Thor. AGX Orin has none: its rails are added."""

MODULE = "sum of the module's rails"

INSIDE = ("VDDQ_VDD2_1V8AO",)
"""Memory on AGX Orin; it hangs on VIN_SYS_5V0, which is counted already."""

_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (-?\d+)mW(?![^\s/])")
_INTERVAL, _SETTLE, _PATIENCE = 0.1, 1.0, 5.0  # seconds


class Load(Config, frozen=True, kw_only=True):
    """Power while the model runs without a pause at one batch size.

    mw: mean, in milliwatts; above_idle_mw: less the mean at rest; millijoules_per_image: of what is above rest.
    """

    batch: int
    mw: float
    above_idle_mw: float
    images_per_second: float
    millijoules_per_image: float
    samples: int

    @property
    def images_per_joule(self) -> float | None:
        """None where nothing was drawn above rest: then others drew less meanwhile."""
        return 1000 / self.millijoules_per_image if self.millijoules_per_image > 0 else None


class Power(Config, frozen=True, kw_only=True):
    """What the board draws, in milliwatts.

    source: what read the sensors. rails: the ones that were added up. scope: what they feed.
    """

    source: str
    rails: tuple[str, ...]
    scope: str
    idle_mw: float
    idle_samples: int
    loads: tuple[Load, ...]


class Source(Protocol):
    """Where samples come from."""

    @property
    def name(self) -> str:
        """For the result."""

    @property
    def scope(self) -> str:
        """What its rails feed, taken together."""

    def stream(self, stop: threading.Event) -> Iterator[Rails]:
        """About ten samples a second until `stop` is set."""


class Tegrastats:
    """The rails that ``tegrastats`` prints."""

    name, scope = "tegrastats", MODULE

    def stream(self, stop: threading.Event) -> Iterator[Rails]:
        """The rails of each line."""
        command = ["tegrastats", "--interval", str(round(_INTERVAL * 1000))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                for line in process.stdout or ():
                    yield rails_of(line)
                    if stop.is_set():
                        return
            finally:
                process.terminate()


class Ina3221:
    """The rails that the kernel's driver shows, volts times amperes."""

    name, scope = "ina3221", MODULE

    def __init__(self, system: Path = Path("/sys")) -> None:
        self._system = system

    def stream(self, stop: threading.Event) -> Iterator[Rails]:
        """Each reading of all channels."""
        while not stop.is_set():
            yield self.read()
            stop.wait(_INTERVAL)

    def read(self) -> dict[str, float]:
        """Every channel that has a name, a voltage (mV) and a current (mA); the sum channel has no current."""
        found: dict[str, float] = {}
        for label in sorted(self._system.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[123]_label")):
            channel = label.name[2]
            with contextlib.suppress(OSError, ValueError):  # a channel that is switched off
                volts = int((label.parent / f"in{channel}_input").read_text())
                amperes = int((label.parent / f"curr{channel}_input").read_text())
                found[label.read_text().strip()] = volts * amperes / 1000
        return {name: value for name, value in found.items() if name != "NC"}


@dataclass(frozen=True)
class Meter:
    """What measures power and what was drawn at rest, or the `reason` why nothing does."""

    reason: str = ""
    source: Source | None = None
    rest: Sequence[Rails] = ()

    @classmethod
    def at_rest(cls, seconds: float) -> Meter:
        """Measured now, where this machine has sensors."""
        source = find()
        if source is None:
            return cls(why_not())
        log.info("power at rest, by %s", source.name)
        try:
            return cls("", source, at_rest(source, seconds))
        except BenchError as error:
            return cls(str(error))

    def of(self, runners: Mapping[int, Callable[[], object]], seconds: float) -> Power | str:
        """What each of `runners`, by batch size, draws in so many seconds, or why that is not known."""
        if self.source is None:
            return self.reason
        try:
            return measure(self.source, self.rest, runners, seconds)
        except BenchError as error:
            return str(error)


def find(system: Path = Path("/sys")) -> Source | None:
    """What can read this machine's sensors; None when it has none."""
    if shutil.which("tegrastats"):
        return Tegrastats()
    direct = Ina3221(system)
    if direct.read():
        return direct
    return None if rapl.why_not(system) else rapl.Rapl(system)


def why_not(system: Path = Path("/sys")) -> str:
    """Why :func:`find` finds nothing."""
    return f"this machine has neither tegrastats nor INA3221 sensors, and {rapl.why_not(system)}"


def rails_of(line: str) -> dict[str, float]:
    """The rails in a line of ``tegrastats``, in milliwatts; of the values behind a name the first is the present one."""
    return {name: float(value) for name, value in _RAIL.findall(line) if name != "NC"}


def counted(names: Iterable[str]) -> tuple[str, ...]:
    """The rails whose sum is what is drawn: the one that feeds all others, or all that do not hang on another."""
    known = sorted(set(names))
    whole = next((name for name in WHOLE if name in known), None)
    return (whole,) if whole else tuple(name for name in known if name not in INSIDE)


def at_rest(source: Source, seconds: float) -> list[Rails]:
    """Samples while this process does nothing.

    Raises:
        BenchError: there were none.
    """
    return _sampled(source, seconds, lambda: time.sleep(_INTERVAL))[0]


def measure(source: Source, rest: Sequence[Rails], runners: Mapping[int, Callable[[], object]], seconds: float) -> Power:
    """Run each of `runners`, by batch size, for so long, and set what is drawn beside what was drawn at `rest`.

    Raises:
        BenchError: the sensors gave nothing.
    """
    rails = counted(name for sample in rest for name in sample)
    idle = _mean(rest, rails)
    return Power(
        source=source.name,
        rails=rails,
        scope=WHOLE.get(rails[0], source.scope),
        idle_mw=idle,
        idle_samples=len(rest),
        loads=tuple(_load(source, rails, idle, batch, runner, seconds) for batch, runner in runners.items()),
    )


def _load(
    source: Source, rails: Sequence[str], idle: float, batch: int, runner: Callable[[], object], seconds: float
) -> Load:
    samples, rate = _sampled(source, seconds, runner)
    drawn, images = _mean(samples, rails), batch * rate
    return Load(
        batch=batch,
        mw=drawn,
        above_idle_mw=drawn - idle,
        images_per_second=images,
        millijoules_per_image=(drawn - idle) / images,
        samples=len(samples),
    )


def _sampled(source: Source, seconds: float, work: Callable[[], object]) -> tuple[list[Rails], float]:
    """The samples of `seconds` in which `work` is called again and again, and its calls a second.

    The first second is not counted: the sensors average over some time, and clocks rise.
    """
    samples: list[Rails] = []
    stop = threading.Event()
    reader = threading.Thread(target=lambda: samples.extend(source.stream(stop)), daemon=True)
    reader.start()
    _repeat(work, lambda took: took >= _SETTLE)
    before = len(samples)
    rate = _repeat(work, lambda took: took >= seconds and (len(samples) > before or took >= seconds + _PATIENCE))
    stop.set()
    reader.join(_PATIENCE)
    kept = [sample for sample in samples[before:] if sample]
    if not kept:
        raise BenchError(f"{source.name} gave no power rails in {seconds:g} seconds: run it by hand and see what it says")
    return kept, rate


def _repeat(work: Callable[[], object], enough: Callable[[float], bool]) -> float:
    """Call `work` until `enough` holds of the seconds that it took; the calls a second."""
    calls, start = 0, time.monotonic()
    while True:
        work()
        calls += 1
        took = time.monotonic() - start
        if enough(took):
            return calls / took


def _mean(samples: Sequence[Rails], rails: Sequence[str]) -> float:
    """Of the sum of `rails`, over the samples that have them all."""
    sums = [sum(sample[name] for name in rails) for sample in samples if all(name in sample for name in rails)]
    if not sums:
        raise BenchError(f"the rails {', '.join(rails)} are in none of {len(samples)} samples: the sensors changed in between")
    return sum(sums) / len(sums)
