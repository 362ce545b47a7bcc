"""Where a run stands, on disk: written whole or not at all, read without running code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from edgedet.errors import StateError

STATE = "state.pt"


def save(state: dict[str, Any], work: Path) -> None:
    """Write `state` into the folder `work`, replacing the last one in one step.

    Raises:
        StateError: it cannot be written; the last one is untouched.
    """
    temporary = work / f".{STATE}.partial"
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(work / STATE)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        # torch hides the system's own words behind those of its zip writer.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise unwritable(work / STATE, cause) from error


def load(work: Path) -> dict[str, Any] | None:
    """The last state in `work`, None when there is none.

    Raises:
        StateError: it is damaged.
    """
    path = work / STATE
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise nearly anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise StateError(f"{path}: is damaged ({reason}); remove {work} and train from the start") from error
    if not isinstance(state, dict) or "config" not in state:
        raise StateError(f"{path}: is not the state of a run; remove {work} and train from the start")
    return state


def unwritable(path: Path, error: BaseException) -> StateError:
    """What to say when a file of the work folder cannot be written."""
    reason = error.strerror if isinstance(error, OSError) else None
    return StateError(f"{path}: cannot be written ({reason or error}); free space and run again with --resume")


def other_run(work: Path) -> StateError:
    """What to say when the state in `work` is not that of the run that is asked for."""
    return StateError(
        f"{work}: holds a run with other settings, another network or other data; give the same ones to resume it, "
        "or remove the folder to start anew"
    )
