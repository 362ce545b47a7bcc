"""An artifact that is being written: whole, in one step, or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from edgedet.artifact.folder import Artifact, sha256_of
from edgedet.artifact.manifest import MANIFEST, Manifest
from edgedet.errors import ArtifactError


@dataclass
class Draft:
    """An artifact that is being written: put files below `path` and set `manifest`."""

    path: Path
    manifest: Manifest | None = None

    @property
    def so_far(self) -> Manifest:
        """The manifest that the stage has set.

        Raises:
            ArtifactError: it has set none yet.
        """
        if self.manifest is None:
            raise ArtifactError(f"{self.path}: the stage set no manifest")
        return self.manifest

    def preview(self) -> Artifact:
        """What is there so far as an artifact that can be loaded and run, before its figures are known.

        Raises:
            ArtifactError: the stage has set no manifest yet.
        """
        complete = msgspec.structs.replace(self.so_far, files=_hashes(self.path))
        return Artifact(self.path, complete, hashlib.sha256(msgspec.json.encode(complete)).hexdigest())


@contextlib.contextmanager
def writing(out: str | os.PathLike[str]) -> Iterator[Draft]:
    """Write an artifact at `out` in one step: a temporary folder beside it, then one rename.

    Raises:
        ArtifactError: `out` exists, cannot be written, or the disk is full; nothing is left behind.
    """
    target = Path(out)
    check_free(target)
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed: in containers their numbers come again
    try:
        temporary.mkdir(parents=True)
        draft = Draft(temporary)
        yield draft
        _finish(draft.so_far, temporary)
        temporary.replace(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENOTEMPTY):
            raise ArtifactError(f"{target}: cannot be written: {error.strerror}") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(out: str | os.PathLike[str]) -> None:
    """Refuse to write over something, before the work starts.

    Raises:
        ArtifactError: `out` exists.
    """
    if Path(out).exists() or Path(out).is_symlink():
        raise ArtifactError(f"{out}: exists already; remove it or give another --out")


def tool_versions(*extra: str) -> dict[str, str]:
    """Versions of edgedet, Python, the platform and the installed ones among the packages that decide results."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("edgedet", "numpy", "pillow", "onnxruntime", *extra):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _finish(manifest: Manifest, folder: Path) -> None:
    """Hash every file into the manifest and write it, flushed to disk before the rename."""
    complete = msgspec.structs.replace(manifest, files=_hashes(folder))
    with (folder / MANIFEST).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(complete), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _hashes(folder: Path) -> dict[str, str]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: sha256_of(folder / name) for name in names if name != MANIFEST}
