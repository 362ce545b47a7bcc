"""Recipes and targets: TOML files turned into frozen, typed structs.

A recipe says how a detector is trained or compressed (``train/*.toml``), a target says what a device needs
(``export/*.toml``). Both are found by name or by path, and every key can be set on the command line as ``key=value``.
An unknown key, a wrong type or a value out of range is an error that names the file and the key.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from edgedet.errors import RecipeError, RecipeNotFound, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Folder = Literal["train", "export", "benchmarks/reference"]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every struct that comes from a TOML file; subclasses check values in ``__post_init__``."""


C = TypeVar("C")


def folder_of(folder: Folder) -> Path:
    """Where recipes, targets or published figures lie: in the checkout when there is one, else in the wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / folder
    if (package.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    return package / "_shipped" / folder


def names(folder: Folder) -> list[str]:
    """The names that :func:`find` knows, sorted."""
    return sorted(path.stem for path in folder_of(folder).glob("*.toml"))


def find(folder: Folder, name: str) -> Path:
    """The file behind `name`: a path when it looks like one (a separator or ``.toml``), else a name in `folder`.

    Raises:
        RecipeNotFound: no such file; the message has the nearest name.
    """
    what = "recipe" if folder == "train" else "target"
    if name.endswith(".toml") or "/" in name or "\\" in name:
        path = Path(name)
        if not path.is_file():
            raise RecipeNotFound(f"no {what} file at {path}: give the path of a .toml file, or one of its names")
        return path
    path = folder_of(folder) / f"{name}.toml"
    if not path.is_file():
        raise RecipeNotFound(f"no {what} is called {name!r}{nearest(name, names(folder))}")
    return path


def load(folder: Folder, name: str, into: type[C], overrides: Sequence[str] = ()) -> C:
    """Read the recipe or target `name` into the struct type `into`, with ``key=value`` overrides applied.

    Raises:
        RecipeNotFound: there is no such file.
        RecipeError: the file or an override is not valid.
    """
    path = find(folder, name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    return parse(text, into, source=str(path), overrides=overrides)


def parse(text: str, into: type[C], *, source: str, overrides: Sequence[str] = ()) -> C:
    """Turn TOML text into `into`; `source` names the text in errors.

    Raises:
        RecipeError: bad TOML, an unknown key, a wrong type, a value out of range, or a bad override.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source}: not valid TOML: {error}") from error
    for override in overrides:
        _set(tree, override)
    return convert(tree, into, source=source)


def convert(tree: Any, into: type[C], *, source: str) -> C:
    """Validate plain data against `into`, with errors that name `source`, the key and the nearest right one.

    Raises:
        RecipeError: an unknown key, a wrong type or a value out of range.
    """
    try:
        return msgspec.convert(tree, into)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{source}: {_explain(str(error), tree, into)}") from error


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"{override!r} is not an override: write key=value, as in training.epochs=3")
    *parents, last = key.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"{override!r}: {parent!r} is a value, not a table, so it has no key {last!r}")
    tree[last] = _value(value.strip())


def _value(text: str) -> Any:
    """`text` as a TOML value; what is not one (``name=resnet50``) is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`")


def _explain(message: str, tree: Any, into: Any) -> str:
    match = _AT.match(message)
    what, where = (match["what"], match["where"] or "") if match else (message, "")
    unknown = _UNKNOWN.search(what)
    if unknown:
        key = unknown["key"]
        full = f"{where}.{key}" if where else key
        return f"unknown key {full!r}{nearest(key, _keys(into, where))}"
    value = _lookup(tree, where)
    got = "" if value is _MISSING or isinstance(value, (dict, list)) else f", got {value!r}"
    return f"{where or 'top level'}: {what[:1].lower()}{what[1:]}{got}"


_MISSING = object()


def _lookup(tree: Any, where: str) -> Any:
    for part in filter(None, re.split(r"[.\[\]]", where)):
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return _MISSING
    return tree


def _keys(into: Any, where: str) -> Iterable[str]:
    """The keys allowed at `where` below the struct type `into`."""
    kinds = [into]
    for part in filter(None, re.split(r"[.\[\]]", where)):
        kinds = [sub for kind in kinds for sub in _step(kind, part)]
    return {field for kind in kinds for field in getattr(kind, "__struct_fields__", ())}


def _step(kind: Any, part: str) -> list[Any]:
    """The struct types that stand behind key `part` of `kind`; containers and unions are looked through."""
    if part.isdigit() or part == "...":
        return [kind]
    hints = typing.get_type_hints(kind) if hasattr(kind, "__struct_fields__") else {}
    return _structs(hints[part]) if part in hints else []


def _structs(hint: Any) -> list[Any]:
    if hasattr(hint, "__struct_fields__"):
        return [hint]
    return [found for argument in typing.get_args(hint) for found in _structs(argument)]
