"""Asking a child process: a compiler that aborts, hangs or takes all memory ends the child, not this process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgedet.errors import ExportError

_MIB = 1 << 20


def ask(module: str, request: dict[str, Any], *, about: Path, seconds: float, does: str = "compile") -> dict[str, Any]:
    """What ``python -m module REQUEST`` writes as JSON to the file that it finds in ``request["answer"]``.

    about: the file that it works on, for errors. does: what it does to it. ``request["memory"]``, where it is given, is the
    limit in bytes that the child sets itself.

    Raises:
        ExportError: it crashed, gave up, or was not done after `seconds`.
    """
    who = f"{about}: the process that should {does} it"
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", module, json.dumps({**request, "answer": str(answer)})]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{who} was not done after {seconds:.0f} seconds: stopped") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(f"{who} {_end(done.returncode, request.get('memory'))}: {last}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found


def _end(code: int, memory: int | None) -> str:
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    return "gave up" + (f" (memory limit {memory // _MIB} MiB)" if memory else "")
