"""Where derived data is kept between commands, and how it is written: whole, in one step."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgedet.errors import DataError

CACHE_VARIABLE = "EDGEDET_CACHE"
IN_CACHE = f"set {CACHE_VARIABLE} to a folder with room"
ASKED_FOR = "give another folder"
"""What can be done instead of making room: where derived data is kept, and where a command was told to write."""


def cache_root() -> Path:
    """The folder named by ``$EDGEDET_CACHE``, else the platform's cache folder of this user."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgedet"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "edgedet" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgedet"


def partial(target: Path) -> Path:
    """A name beside `target` for it while it is incomplete: no other process or thread has the same."""
    return target.with_name(f".{target.name}.partial-{os.getpid()}-{threading.get_ident()}")


def work_folder(out: Path) -> Path:
    """Where an unfinished run of the stage that writes `out` keeps its state."""
    return out.with_name(f".{out.name}.work")


@contextlib.contextmanager
def explained(target: Path, instead: str = IN_CACHE) -> Iterator[None]:
    """Turn the operating system's refusal to write `target` (disk full, no permission) into a DataError.

    instead: what can be done other than make room there.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}; make room there, or {instead}") from error


@contextlib.contextmanager
def writing_file(target: Path, instead: str = IN_CACHE) -> Iterator[BinaryIO]:
    """A file to write that appears at `target` only when it is complete; otherwise nothing is left behind.

    Raises:
        DataError: the folder cannot be written or the disk is full.
    """
    temporary = partial(target)
    with explained(target, instead):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
            temporary.replace(target)
        finally:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
