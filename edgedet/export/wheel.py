"""The wheel of the edgedet that is running, written again without a build tool.

A device gets the edgedet that made its artifact. That one may be a checkout or an installed wheel; either way its modules, its
data (recipes, targets, published figures) and the metadata of its installation are here, and a wheel is a zip of these
(PyPA, "Binary distribution format"). The bytes depend on nothing else: no time, no user, no order of a folder.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import typing
import zipfile
from importlib import metadata
from pathlib import Path

import edgedet
from edgedet import recipe
from edgedet.errors import ExportError

_MADE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_FILE = "WHEEL"
_TAGS = "Wheel-Version: 1.0\nGenerator: edgedet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_KEPT = ("METADATA", "entry_points.txt", "licenses/")


def name() -> str:
    """What the wheel's file is called."""
    return f"edgedet-{edgedet.__version__}-py3-none-any.whl"


def build() -> bytes:
    """The wheel.

    Raises:
        ExportError: edgedet is not installed here, or the installation is of another version than the code.
    """
    files = {**_package(), **_data(), **_information()}
    folder = next(iter(path for path in files if path.endswith("METADATA"))).rpartition("/")[0]
    files[f"{folder}/{_FILE}"] = _TAGS.encode()
    record = [f"{path},{_hash(files[path])},{len(files[path])}" for path in sorted(files)]
    files[f"{folder}/RECORD"] = "\n".join([*record, f"{folder}/RECORD,,", ""]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in sorted(files, key=lambda path: (".dist-info/" in path, path)):
            entry = zipfile.ZipInfo(path, _MADE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, files[path])
    return packed.getvalue()


def requirements(extra: str | None = None) -> tuple[str, ...]:
    """What the core needs, in the form of a requirements file, or what `extra` needs besides.

    Raises:
        ExportError: edgedet is not installed here.
    """
    lines = [(line, _EXTRA.search(line)) for line in _installed().requires or ()]
    return tuple(_EXTRA.sub("", line) for line, found in lines if (found[1] if found else None) == extra)


_EXTRA = re.compile(r"""\s*(?:;|\band)\s*extra\s*==\s*["']([^"']+)["']""")
"""The end of a requirement that only an extra has."""


def _installed() -> metadata.Distribution:
    try:
        found = metadata.distribution("edgedet")
    except metadata.PackageNotFoundError as error:
        raise ExportError("edgedet runs here without being installed, so its wheel cannot be made: pip install -e .") from error
    if found.version != edgedet.__version__:
        raise ExportError(
            f"edgedet {found.version} is installed, but this is {edgedet.__version__}: install it again (pip install -e .)"
        )
    return found


def _package() -> dict[str, bytes]:
    """The modules, and whatever else lies in the package; the data of an installed wheel too."""
    root = Path(edgedet.__file__).resolve().parent
    return {f"edgedet/{path}": (root / path).read_bytes() for path in _below(root)}


def _data() -> dict[str, bytes]:
    """Recipes, targets and published figures, which in a checkout lie beside the package."""
    found: dict[str, bytes] = {}
    for folder in typing.get_args(recipe.Folder):
        root = recipe.folder_of(folder)
        found |= {f"edgedet/_shipped/{folder}/{path}": (root / path).read_bytes() for path in _below(root)}
    return found


def _information() -> dict[str, bytes]:
    """What the installation says of the package."""
    folder = f"edgedet-{edgedet.__version__}.dist-info"
    found = {}
    for path in sorted(_installed().files or (), key=str):
        inside = path.as_posix().removeprefix(f"{folder}/")
        if inside != path.as_posix() and inside.startswith(_KEPT):
            found[f"{folder}/{inside}"] = Path(str(path.locate())).read_bytes()
    return found


def _below(root: Path) -> list[str]:
    """Every file, relative, sorted; not what Python and editors leave behind."""
    paths = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return [path.as_posix() for path in paths if not any(part.startswith((".", "__pycache__")) for part in path.parts)]


def _hash(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
