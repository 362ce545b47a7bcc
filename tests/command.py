"""The command line, run for real in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = (sys.executable, "-m", "edgedet")


@dataclass(frozen=True)
class Demo:
    """A tiny data set, and one artifact of every stage made from it; `said` has what each stage wrote to stdout."""

    root: Path
    said: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def teacher(self) -> Path:
        return self.root / "teacher"

    @property
    def student(self) -> Path:
        return self.root / "student"

    @property
    def pruned(self) -> Path:
        return self.root / "pruned"

    @property
    def fp32(self) -> Path:
        return self.root / "fp32"

    @property
    def int8(self) -> Path:
        return self.root / "int8"


def environment(cache: Path, **variables: str) -> dict[str, str]:
    """This process's, without edgedet's own variables; one thread, which for tiny networks is quickest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEDET_")}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "EDGEDET_CACHE": str(cache), **variables}


def run(*arguments: object, cache: Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """``edgedet ARGUMENTS``; its code, stdout and stderr."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="backslashreplace",
        cwd=cwd,
        env=environment(cache, **variables),
        timeout=600,
    )


def press_ctrl_c(*arguments: object, cache: Path, when: bytes, **variables: str) -> subprocess.CompletedProcess[str]:
    """``edgedet ARGUMENTS`` under a terminal, interrupted when `when` is on it; its code, stdout and what the terminal saw."""
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=end,
        env=environment(cache, TERM="xterm", **variables),
    )
    os.close(end)
    seen = b""
    with contextlib.suppress(OSError):  # a terminal that nobody writes to any more
        while chunk := os.read(terminal, 1000):
            seen, before = seen + chunk, when in seen
            if when in seen and not before:
                process.send_signal(signal.SIGINT)
    os.close(terminal)
    out, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out.decode(), seen.decode(errors="replace"))


def assert_one_line(err: str, *words: str) -> None:
    """Exactly one line, in the form of an error, with all of `words` in it."""
    assert re.fullmatch(r"edgedet: [^\n]+\n", err), err
    for word in words:
        assert word in err


SHORT = ("training.epochs=4", "training.batch_size=16", "training.ema=0.5", "training.amp=false")
TINY = (*SHORT, "detector.arguments.width=16", "gates=[]")


def stages(demo: Demo) -> dict[str, tuple[object, ...]]:
    """The story of the README at its smallest, command by command."""
    data = ("--data", demo.data)
    return {
        "data": ("data", "simulate", demo.data, "--scale", "0.04"),
        "teacher": ("train", "demo-teacher", *TINY, *data, "--out", demo.teacher),
        "student": ("distill", "demo-student", *TINY, "--teacher", demo.teacher, *data, "--out", demo.student),
        "pruned": (
            "prune", "demo-prune", *SHORT, "steps=1", "keep=0.7", "--from", demo.student, *data, "--out", demo.pruned,
        ),
        "fp32": ("export", demo.pruned, *data, "--out", demo.fp32),
        "int8": ("export", demo.pruned, "--int8", *data, "--out", demo.int8),
    }  # fmt: skip


def make_demo(root: Path) -> Demo:
    """Run them, each in its own process, below `root`."""
    demo = Demo(root)
    for name, arguments in stages(demo).items():
        done = run(*arguments, "--json", "-", cache=root / "cache")
        assert done.returncode == 0, f"{name}: {done.stderr}"
        demo.said[name] = done.stdout
    return demo
