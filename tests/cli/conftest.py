"""The command line without a new process: the same `main`, with its exit code and what it printed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import environment

from edgedet.cli import main


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Edgedet = Callable[..., Done]


@pytest.fixture
def edgedet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Edgedet:
    log = logging.getLogger("edgedet")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for name in ("EDGEDET_DATA", "EDGEDET_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(tmp_path / "cache").items():
        if name in ("EDGEDET_CACHE", "COLUMNS"):
            monkeypatch.setenv(name, value)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["edgedet", *map(str, arguments)])
        level = log.level
        try:
            with pytest.raises(SystemExit) as stopped:
                main()
        finally:
            log.setLevel(level)
        printed = capsys.readouterr()
        return Done(int(stopped.value.code or 0), printed.out, printed.err)

    return call
