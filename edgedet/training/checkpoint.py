"""Where a run stands, on disk: written whole or not at all, read without running code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from edgedet.errors import TrainingError

STATE = "state.pt"


def save(state: dict[str, Any], work: Path) -> None:
    """Write `state` into the folder `work`, replacing the last one in one step.

    Raises:
        TrainingError: it cannot be written; the last one is untouched.
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
        raise TrainingError(f"{work / STATE}: cannot be written ({error}); free space and run again with --resume") from error


def load(work: Path) -> dict[str, Any] | None:
    """The last state in `work`, None when there is none.

    Raises:
        TrainingError: it is damaged.
    """
    path = work / STATE
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise TrainingError(f"{path}: is damaged ({error}); remove {work} and train from the start") from error
    assert isinstance(state, dict)
    return state
