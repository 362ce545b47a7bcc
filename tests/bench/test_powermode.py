"""Power modes by name. The tool is a Jetson's; its place is taken by a script that prints and keeps what it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedet.bench import powermode
from edgedet.errors import BenchError

CONFIGURATION = """
###########################
# POWER_MODEL DEFINITIONS #
###########################
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""
TOOL = """#!/bin/sh
state={root}/state
case $1 in
  -q) echo "NV Power Mode: $(/bin/cat $state)"; echo 0;;
  -m) [ -e {root}/stubborn ] && {{ echo "Reboot required" >&2; exit 1; }}
      case $2 in 0) echo 15W;; 1) echo 25W;; 2) echo MAXN_SUPER;; esac > $state;;
esac
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a board that is in mode 15W."""
    (tmp_path / "nvpmodel.conf").write_text(CONFIGURATION)
    (tmp_path / "state").write_text("15W\n")
    tool = tmp_path / "bin" / "nvpmodel"
    tool.parent.mkdir()
    tool.write_text(TOOL.format(root=tmp_path))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    monkeypatch.setattr(powermode.os, "geteuid", lambda: 0)
    return tmp_path


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n", "MODE_15W_6CORE"),
        ("NVPM VERB: Current mode: NV Power Mode: 30W\n", "30W"),
        ("NVPM ERROR: no mode\n", None),
    ],
)
def test_the_name_in_the_tools_answer(answer, name):
    assert powermode.name_in(answer) == name


def test_modes_have_their_numbers_from_the_boards_own_file(board):
    assert powermode.modes(board / "nvpmodel.conf") == {"15W": 0, "25W": 1, "MAXN_SUPER": 2}


def test_a_mode_is_set_by_name(board):
    assert powermode.current() == "15W"
    powermode.choose("MAXN_SUPER", board / "nvpmodel.conf")
    assert powermode.current() == "MAXN_SUPER"


def test_a_mode_that_is_not_there_or_does_not_come_is_refused(board):
    with pytest.raises(BenchError, match="no power mode 'MAXN_SUPPER'; did you mean 'MAXN_SUPER'"):
        powermode.choose("MAXN_SUPPER", board / "nvpmodel.conf")
    (board / "stubborn").touch()
    with pytest.raises(BenchError, match=r"'25W' is not set \(Reboot required\): set it by hand as root with `nvpmodel -m 1`"):
        powermode.choose("25W", board / "nvpmodel.conf")


def test_a_machine_without_modes_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert powermode.current() is None
    with pytest.raises(BenchError, match="only a Jetson has them"):
        powermode.modes(tmp_path / "nvpmodel.conf")
