"""The power mode of a Jetson, by name: ``nvpmodel`` numbers its modes, and the numbers differ from module to module."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from edgedet.errors import BenchError, nearest

_TOOL = "nvpmodel"
_CONFIGURATION = Path("/etc/nvpmodel.conf")
_MODE = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_CURRENT = re.compile(r"NV Power Mode:\s*(\S+)")
_SECONDS = 30.0


def current() -> str | None:
    """The name of the mode that the board is in; None where there is no nvpmodel or it does not tell."""
    if shutil.which(_TOOL) is None:
        return None
    try:
        done = subprocess.run([_TOOL, "-q"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return name_in(done.stdout)


def name_in(answer: str) -> str | None:
    """The mode in what ``nvpmodel -q`` prints; None when there is none in it."""
    found = _CURRENT.search(answer)
    return found[1] if found else None


def modes(configuration: Path = _CONFIGURATION) -> dict[str, int]:
    """The modes that this board has: name to number.

    Raises:
        BenchError: its configuration cannot be read.
    """
    try:
        text = configuration.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BenchError(f"{configuration}: no power modes can be read: {error.strerror}; only a Jetson has them") from error
    return {name: int(number) for number, name in _MODE.findall(text)}


def choose(name: str, configuration: Path = _CONFIGURATION) -> None:
    """Put the board into the mode called `name`, which needs root, and make sure that it is in it.

    Raises:
        BenchError: no such mode, no right to set it, or it only comes with a restart.
    """
    known = modes(configuration)
    if name not in known:
        raise BenchError(f"this board has no power mode {name!r}{nearest(name, known)}")
    if current() == name:
        return
    command = [*([] if os.geteuid() == 0 else ["sudo", "-n"]), _TOOL, "-m", str(known[name])]
    try:
        # It may ask whether to restart now; with nothing to read it does not.
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"power mode {name!r} could not be set: {error}") from error
    if done.returncode or current() != name:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
        raise BenchError(
            f"power mode {name!r} is not set ({said}): set it by hand as root with `{_TOOL} -m {known[name]}`, "
            "restart if it asks for that, and run again"
        )
