"""What a run says while it runs: a progress bar for people, a log file, and JSON lines of every figure."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edgedet.training.checkpoint import unwritable

METRICS = "metrics.jsonl"
LOG = "log.txt"

log = logging.getLogger("edgedet.training")


class Journal:
    """Progress with time left on the terminal, ``log.txt`` and ``metrics.jsonl`` in the work folder; silent unless it leads."""

    def __init__(self, work: Path, *, total: int, leads: bool, title: str) -> None:
        self._work, self._leads = work, leads
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not leads,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task(title, total=total, figures="")
        self._handler = _LogFile(work / LOG, encoding="utf-8") if leads else logging.NullHandler()
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def __enter__(self) -> Journal:
        self._before = (log.level, log.propagate)
        log.addHandler(self._handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        if self._leads and self._progress.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        log.removeHandler(self._handler)
        with contextlib.suppress(OSError):  # what could not be written has been told
            self._handler.close()
        log.setLevel(self._before[0])
        log.propagate = self._before[1]

    def forget_after(self, step: int) -> None:
        """Drop the figures of steps that a resumed run will take again."""
        path = self._work / METRICS
        if self._leads and path.is_file():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            temporary = path.with_suffix(".partial")
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            temporary.replace(path)

    def step(self, step: int, figures: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step, figures=figures)

    def record(self, **figures: Any) -> None:
        """Append one line of figures, with the time.

        Raises:
            StateError: it cannot be written.
        """
        if not self._leads:
            return
        path = self._work / METRICS
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**figures, "time": round(time.time(), 3)}) + "\n")
        except OSError as error:
            raise unwritable(path, error) from error

    def say(self, message: str) -> None:
        """A line for the log and, above the bar, for people."""
        if self._leads:
            log.info(message)
            self._progress.console.print(message, highlight=False)


class _LogFile(logging.FileHandler):
    """A log that stops the run when it cannot be written, where logging's own would print a traceback and go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where the error is handled.

        Raises:
            StateError: names the file and the reason.
        """
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        raise unwritable(Path(self.baseFilename), error) from error


def _step_of(line: str) -> float:
    """The step that a line of figures is of; a line that a kill has cut short is of none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
