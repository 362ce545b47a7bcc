"""Power rails, read from lines that boards printed and from a sysfs tree as the kernel's driver makes it."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from edgedet.bench import power
from edgedet.errors import BenchError

# Lines of the format that each board and release prints; the values behind a rail are present/mean, in JetPack 7 also the peak.
ORIN_NANO_JETPACK_6 = (
    "11-24-2026 12:00:01 RAM 2493/7620MB (lfb 1x4MB) SWAP 0/3810MB (cached 0MB) CPU [5%@729,3%@729,0%@729,off,off,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 37%@[611] cpu@45.5C soc2@44.1C gpu@44.2C tj@45.5C "
    "VDD_IN 4542mW/4000mW VDD_CPU_GPU_CV 495mW/400mW VDD_SOC 1286mW/1200mW"
)
AGX_ORIN_JETPACK_5 = (
    "11-24-2026 12:00:01 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU [0%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@0 VIC_FREQ 729 APE 174 CV0@-256C CPU@42.593C tj@42.593C VDD_GPU_SOC 2399mW/2400mW VDD_CPU_CV 400mW/400mW "
    "VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
AGX_ORIN_JETPACK_7 = (
    "11-24-2026 12:00:01 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] "
    "NVENC0 off NVDLA0 off APE 174 cpu@52.968C/52.968C gpu@47.625C/47.625C "
    "VDD_GPU_SOC 5139mW/5000mW/5200mW VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
THOR_JETPACK_7 = (
    "11-24-2026 12:00:01 RAM 3492/125772MB (lfb 35x4MB) CPU [1%@972] GR3D_FREQ @[1000,1000,1000] cpu@40C tj@41C "
    "VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 3924mW/3924mW VIN_SYS_5V0 5361mW/5361mW VIN 21567mW/21567mW"
)


@pytest.mark.parametrize(
    ("line", "rails", "counted"),
    [
        (ORIN_NANO_JETPACK_6, {"VDD_IN": 4542, "VDD_CPU_GPU_CV": 495, "VDD_SOC": 1286}, ("VDD_IN",)),
        (
            AGX_ORIN_JETPACK_5,
            {"VDD_GPU_SOC": 2399, "VDD_CPU_CV": 400, "VIN_SYS_5V0": 4032, "VDDQ_VDD2_1V8AO": 301},
            ("VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"),
        ),
        (
            AGX_ORIN_JETPACK_7,
            {"VDD_GPU_SOC": 5139, "VDD_CPU_CV": 3268, "VIN_SYS_5V0": 5500},
            ("VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"),
        ),
        (
            THOR_JETPACK_7,
            {"VDD_GPU": -392, "VDD_CPU_SOC_MSS": 3924, "VIN_SYS_5V0": 5361, "VIN": 21567},
            ("VIN",),
        ),
        ("RAM 100/1000MB (lfb 2x4MB) CPU [off,off] GR3D_FREQ 0%", {}, ()),
    ],
)  # fmt: skip
def test_the_rails_of_a_line(line, rails, counted):
    """What feeds everything is counted alone; without such a rail the others are added, each once."""
    found = power.rails_of(line)
    assert found == rails
    assert power.counted(found) == counted


def sensor(root: Path, address: str, channels: dict[int, tuple[str, str, str]]) -> None:
    folder = root / "bus/i2c/drivers/ina3221" / address / "hwmon/hwmon1"
    folder.mkdir(parents=True)
    for number, (label, millivolts, milliamperes) in channels.items():
        (folder / f"in{number}_label").write_text(f"{label}\n")
        (folder / f"in{number}_input").write_text(millivolts)
        if milliamperes:
            (folder / f"curr{number}_input").write_text(milliamperes)


def test_the_kernels_driver_gives_volts_and_amperes(tmp_path):
    sensor(
        tmp_path,
        "1-0040",
        {
            1: ("VDD_IN", "4984\n", "960\n"),
            2: ("VDD_CPU_GPU_CV", "4976\n", "120\n"),
            3: ("NC", "0\n", "0\n"),
            7: ("sum of shunt voltages", "8080\n", ""),
        },
    )
    sensor(tmp_path, "1-0041", {1: ("VDD_SOC", "4976\n", "")})
    assert power.Ina3221(tmp_path).read() == {"VDD_IN": 4984 * 960 / 1000, "VDD_CPU_GPU_CV": 4976 * 120 / 1000}


def test_what_has_sensors_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert power.find(tmp_path) is None
    sensor(tmp_path, "1-0040", {1: ("VDD_IN", "5000", "1000")})
    direct = power.find(tmp_path)
    assert direct is not None
    assert direct.name == "ina3221"
    program(tmp_path, [ORIN_NANO_JETPACK_6])
    printed = power.find(tmp_path)
    assert printed is not None
    assert printed.name == "tegrastats"


def program(root: Path, lines: list[str]) -> None:
    """A tegrastats on the PATH that prints `lines` again and again, as quickly as it is told to."""
    shown = "\n".join(f"echo '{line}'" for line in lines)
    path = root / "bin" / "tegrastats"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\nwhile :; do\n{shown}\n/bin/sleep 0.05\ndone\n")
    path.chmod(0o755)


def test_power_at_rest_is_subtracted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(power, "_SETTLE", 0.0)
    source = power.Tegrastats()
    program(tmp_path, [ORIN_NANO_JETPACK_6])
    rest = power.at_rest(source, 0.3)
    program(tmp_path, [ORIN_NANO_JETPACK_6.replace("VDD_IN 4542mW", "VDD_IN 7542mW")])
    calls = itertools.count()
    pause = threading.Event()
    found = power.measure(source, rest, {4: lambda: (next(calls), pause.wait(0.02))}, 0.3)
    (load,) = found.loads
    assert (found.source, found.rails, found.scope, found.idle_mw) == ("tegrastats", ("VDD_IN",), "module", 4542)
    assert (load.batch, load.mw, load.above_idle_mw) == (4, 7542, 3000)
    assert load.millijoules_per_image == pytest.approx(3000 / load.images_per_second)
    assert load.images_per_second <= 4 / 0.02
    assert next(calls) > 2


def test_a_source_without_rails_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(power, "_SETTLE", 0.0)
    program(tmp_path, ["RAM 100/1000MB CPU [off]"])
    with pytest.raises(BenchError, match="tegrastats gave no power rails"):
        power.at_rest(power.Tegrastats(), 0.2)


def test_rails_that_went_away_are_no_zeros(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(power, "_SETTLE", 0.0)
    program(tmp_path, [ORIN_NANO_JETPACK_6.replace("VDD_IN", "VDD_OTHER")])
    with pytest.raises(BenchError, match="the rails VDD_IN are in none of"):
        power.measure(power.Tegrastats(), [{"VDD_IN": 4000.0}], {1: lambda: None}, 0.2)
