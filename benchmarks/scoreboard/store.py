"""The file of results: a row for each detector, kept as long as its code is the same."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from edgedet import models

Row = dict[str, Any]

_MIB = 1 << 20


def load(path: Path) -> dict[str, Row]:
    """The rows by detector; none when there is no file."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return {row["name"]: row for row in rows}


def save(path: Path, rows: dict[str, Row]) -> None:
    """The rows of the table's detectors, in its order; those of detectors that are gone go."""
    ordered = [rows[name] for name in models.DETECTORS if name in rows]
    record = {"evidence": "untrained weights; compiled ahead of time, not run on a GPU", "rows": ordered}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def stands(row: Row | None, code: str) -> bool:
    """Whether a row need not be measured again: it is whole, and of this code."""
    return row is not None and row["code"] == code and not row.get("stopped")


def ask(command: Sequence[str], name: str, *, memory: int, seconds: float) -> Row:
    """The row that a process of its own measures; when it ends early, its parts up to there and the reason.

    memory: its limit in bytes, which it sets itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        given = [sys.executable, *command, "--row", name, "--answer", str(answer), "--memory", str(memory / (1 << 30))]
        try:
            done = subprocess.run(given, stderr=subprocess.PIPE, text=True, errors="replace", timeout=seconds, check=False)
            stopped = "" if done.returncode == 0 else _why(done.returncode, done.stderr, memory)
        except subprocess.TimeoutExpired:
            stopped = f"not done after {seconds / 60:.0f} minutes"
        row: Row = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {"name": name, "parts": {}}
    return {**row, "date": date.today().isoformat(), **({"stopped": stopped} if stopped else {})}


def _why(code: int, stderr: str, memory: int) -> str:
    last = (stderr.strip().splitlines() or ["no message"])[-1][:300]
    ended = f"ended by signal {-code}" if code < 0 else "failed"
    return f"{ended} (memory limit {memory // _MIB} MiB): {last}"
