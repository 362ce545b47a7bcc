"""A virtual environment for each tool that has requirements of its own, made once in the cache folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

READY = "ready"


class NotInstalled(Exception):
    """The tool cannot be had here; the message is pip's own."""


@dataclass(frozen=True)
class Environment:
    """installs: arguments of one `pip install` each, in order; versions are pinned so that a rerun compares the same tools."""

    name: str
    installs: tuple[tuple[str, ...], ...]

    @property
    def digest(self) -> str:
        """Of the interpreter and of what goes in."""
        return hashlib.sha256(json.dumps([sys.version, self.installs]).encode()).hexdigest()[:12]

    def python(self, root: Path, minutes: float) -> Path:
        """Its interpreter, after making the environment below `root` when it is not there yet.

        Raises:
            NotInstalled: a step failed or took longer than `minutes`.
        """
        folder = root / f"{self.name}-{self.digest}"
        python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        if not (folder / READY).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            _step([sys.executable, "-m", "venv", str(folder)], minutes)
            for arguments in self.installs:
                _step([str(python), "-m", "pip", "install", "--quiet", *arguments], minutes)
            (folder / READY).touch()
        return python


def _step(command: list[str], minutes: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60 * minutes)
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{' '.join(command[-2:])}: not done after {minutes:g} minutes") from error
    if done.returncode:
        raise NotInstalled(said(done.stderr or done.stdout))


def said(output: str) -> str:
    """The line of `output` that says what went wrong: pip's last ERROR, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it failed without a word"])[-1][:300]
