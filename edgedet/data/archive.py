"""Whatever ``--data`` takes to an index: a folder, a table, an index, or an archive of one of them.

An archive is unpacked once, to a folder of the cache that is named by the archive's content. Nothing in it may reach outside.
"""

from __future__ import annotations

import contextlib
import logging
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from edgedet.artifact import sha256_of
from edgedet.data.index import Index
from edgedet.data.scan import ScanOptions, ScanResult, scan
from edgedet.data.store import cache_root, explained, partial
from edgedet.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
"""What is taken for an archive, in any case."""

_LEAST_LIMIT = 2 << 30
_MOST_RATIO = 50
"""Images hardly compress: what unpacks to more than 2 GiB and 50 times its size is a bomb."""

_BLOCK = 1 << 20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, RuntimeError, NotImplementedError)


def open_data(path: str | os.PathLike[str], *, cache: Path | None = None, **options: Unpack[ScanOptions]) -> Index:
    """The index of what lies at `path`; images that had to be left out are logged as a warning.

    The options are those of :func:`edgedet.data.scan.scan`. `cache` is the user's cache folder when not given, so the second
    command on a folder opens no image again. An index that `data scan` wrote is taken as it is.

    Raises:
        DataError: nothing usable there, or an archive that is damaged or reaches outside.
        UnknownLabel: a folder or value that is neither real nor fake.
    """
    source = Path(path)
    if source.is_file() and _is_index(source):
        return Index.load(source)
    result = scan_data(source, cache=cache, **options)
    if result.errors:
        first = ": ".join(result.errors[0])
        log.warning("%s: %d images left out, the first: %s; `edgedet data scan` lists them", path, len(result.errors), first)
    if result.leaks and not options.get("keep_leaks"):
        log.warning("%s: %d images left out, whose bytes also stand in an earlier split", path, len(result.leaks))
    return result.index


def scan_data(path: str | os.PathLike[str], *, cache: Path | None = None, **options: Unpack[ScanOptions]) -> ScanResult:
    """As :func:`open_data`, with the errors, leaks and ignored files that `data scan` prints."""
    root = cache or cache_root()
    return scan(unpacked(Path(path), root), cache=root, **options)


def unpacked(path: Path, root: Path | None = None) -> Path:
    """`path` itself, or when it is a file that is called an archive, the folder that it is unpacked to; see :func:`unpack`."""
    if path.name.lower().endswith(ENDINGS) and path.is_file():
        return unpack(path, root or cache_root())
    return path


def _is_index(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(7) == b"# root,"


def unpack(archive: Path, root: Path) -> Path:
    """The folder below `root` with the files of `archive`, unpacked now when it is not there yet.

    Raises:
        DataError: damaged; a member outside, a link or a device; more data than images could be; no room.
    """
    target = root / "archives" / sha256_of(archive)[:32]
    if target.is_dir():
        return target
    log.info("%s: unpacking to %s", archive, target)
    temporary = partial(target)
    limit = max(_LEAST_LIMIT, _MOST_RATIO * archive.stat().st_size)
    with explained(target):
        try:
            temporary.mkdir(parents=True)
            for name, content in _members(archive):
                limit = _copy(content, temporary / _inside(archive, name), limit, archive)
            with contextlib.suppress(FileExistsError):
                temporary.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster with the same files
                raise
        except _DAMAGE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{archive}: cannot be unpacked: {reason}; get it again") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every file, in the archive's order; read to the end, where a compressed one has its checksum.

    Raises:
        tarfile.TarError, and the rest of `_DAMAGE`: damaged.
    """
    with _reading():
        yield from _unchecked(archive)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """An OSError is damage here, as gzip and bzip2 tell it, and not the disk that is written to."""
    try:
        yield
    except OSError as error:
        raise tarfile.ReadError(str(error)) from error


def _unchecked(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise _not_a_file(archive, info.filename)
                if not info.is_dir():
                    with zipped.open(info) as content:
                        yield info.filename, content
        return
    with tarfile.open(archive) as packed:
        for member in packed:
            content_or_none = packed.extractfile(member) if member.isreg() else None
            if content_or_none is not None:
                yield member.name, content_or_none
            elif not member.isdir():
                raise _not_a_file(archive, member.name)
        if packed.fileobj is not None:
            while packed.fileobj.read(_BLOCK):
                pass


def _not_a_file(archive: Path, name: str) -> DataError:
    return DataError(f"{archive}: {name!r} is a link or a device; pack the files themselves (tar --dereference)")


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0] or "\0" in name:
        raise DataError(f"{archive}: {name!r} would be written outside the folder it is unpacked to; it is not unpacked")
    return path


def _block(content: IO[bytes]) -> bytes:
    with _reading():
        return content.read(_BLOCK)


def _copy(content: IO[bytes], target: Path, limit: int, archive: Path) -> int:
    """Write one member; what is left of `limit`, counted in bytes that came out, not in what a header says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while block := _block(content):
            limit -= len(block)
            if limit < 0:
                raise DataError(
                    f"{archive}: unpacks to more than {_MOST_RATIO} times its size, which images do not; "
                    "if it is meant to, unpack it yourself and give the folder"
                )
            file.write(block)
    return limit
