"""Every key of a recipe, read from the structs that recipes are validated by: ``edgedet recipes --keys``, docs/recipes.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any

import msgspec
from msgspec import inspect

from edgedet.preprocess import Preprocess
from edgedet.recipe import Config

HEAD = """# The keys of a recipe

Written by `edgedet recipes --keys` from the code that reads recipes; a test holds that this is what it writes. Any key can be
set on the command line as well: `edgedet train cifake-teacher training.epochs=3 --out a`. A key without a default must be
given.
"""

_LIMITS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass(frozen=True)
class Key:
    """What a key takes, what it is when left out, empty when it may not be, and what it means."""

    name: str
    takes: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table of a recipe: its header as TOML has it, what it is for, and its keys."""

    header: str
    about: str
    keys: tuple[Key, ...]


def tables() -> list[Table]:
    """What is at the top of each stage's recipes, then the tables inside, of which several stages have the same."""
    recipes = _recipes()
    found = {f'stage = "{stage}"': recipe for stage, recipe in recipes.items()}
    for recipe in recipes.values():
        found |= {header: struct for header, struct in _inside(recipe) if header not in found}
    return [_table(header, struct) for header, struct in found.items()]


def markdown(listed: list[Table]) -> str:
    """The tables as docs/recipes.md has them."""
    parts = [HEAD]
    for each in listed:
        rows = [("key", "takes", "default", "meaning"), ("---",) * 4]
        rows += [(f"`{key.name}`", key.takes, key.default, key.meaning) for key in each.keys]
        lines = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
        parts.append(f"## `{each.header}`\n\n{each.about}\n\n{lines}\n")
    return "\n".join(parts)


def described(struct: type[Config]) -> tuple[str, dict[str, str]]:
    """What a docstring says of its struct, and of each key: lines ``key, other: meaning``, indented where they go on."""
    about: list[str] = []
    meanings: dict[str, str] = {}
    current: list[str] = []
    for line in cleandoc(struct.__doc__ or "").splitlines():
        match = re.match(r"([a-z_0-9]+(?:, [a-z_0-9]+)*):(?: |$)(.*)", line)
        if match and set(match[1].split(", ")) <= set(struct.__struct_fields__):
            current = match[1].split(", ")
            meanings |= dict.fromkeys(current, match[2])
        elif current and line.startswith(" "):
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in current}
        elif line:
            current = []
            about.append(line)
    return _plain(" ".join(about)), {name: _plain(text.strip()) for name, text in meanings.items()}


def _plain(text: str) -> str:
    """Docstring markup as Markdown."""
    return re.sub(r":[a-z]+:`[~.]*([^`]*)`", r"`\1`", text.replace("``", "`"))


def _recipes() -> Mapping[str, type[Config]]:
    """The struct behind each stage."""
    from edgedet.compress.distill import DistillRecipe
    from edgedet.compress.prune import PruneRecipe
    from edgedet.compress.qat import QatRecipe
    from edgedet.search.space import CompressRecipe
    from edgedet.training.stage import TrainRecipe

    found: dict[str, type[Config]] = {"train": TrainRecipe, "distill": DistillRecipe, "prune": PruneRecipe, "qat": QatRecipe}
    return {**found, "compress": CompressRecipe}


def _inside(struct: type[Config], path: str = "") -> Iterator[tuple[str, type[Config]]]:
    """The tables inside `struct`, and inside them, with their headers."""
    for field in _fields(struct):
        kind = field.type
        many = isinstance(kind, inspect.VarTupleType)
        inner = _struct_of(field.name, kind.item_type if isinstance(kind, inspect.VarTupleType) else kind)
        if inner is not None:
            name = f"{path}{field.name}"
            yield (f"[[{name}]]" if many else f"[{name}]"), inner
            yield from _inside(inner, f"{name}.")


def _struct_of(name: str, kind: inspect.Type) -> type[Config] | None:
    if name == "preprocess":  # a dictionary of changes to the detector's own
        return Preprocess
    return kind.cls if isinstance(kind, inspect.StructType) and issubclass(kind.cls, Config) else None


def _fields(struct: type[Config]) -> list[inspect.Field]:
    """Its keys but for `stage`, which is the header."""
    info = inspect.type_info(struct)
    return [field for field in info.fields if field.name != "stage"] if isinstance(info, inspect.StructType) else []


def _table(header: str, struct: type[Config]) -> Table:
    about, meanings = described(struct)
    detectors = struct is Preprocess
    keys = (
        Key(each.name, _takes(each.type), "the detector's" if detectors else _default(each), meanings.get(each.name, ""))
        for each in _fields(struct)
    )
    return Table(header, about, tuple(keys))


def _takes(kind: inspect.Type) -> str:
    """A type in words, with its limits."""
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_takes(each) for each in kind.types if not isinstance(each, inspect.NoneType))
    if isinstance(kind, inspect.LiteralType):
        return ", ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, (inspect.IntType, inspect.FloatType)):
        limits = (f"{word} {getattr(kind, limit):g}" for limit, word in _LIMITS.items() if getattr(kind, limit) is not None)
        return " ".join(["integer" if isinstance(kind, inspect.IntType) else "number", ", ".join(limits)]).strip()
    if isinstance(kind, inspect.TupleType):
        return f"list of {len(kind.item_types)}: {_takes(kind.item_types[0])}"
    if isinstance(kind, inspect.VarTupleType):
        return "tables" if isinstance(kind.item_type, inspect.StructType) else f"list of {_takes(kind.item_type)}"
    if isinstance(kind, inspect.StrType):
        return "text"
    return "`true`, `false`" if isinstance(kind, inspect.BoolType) else "table"


def _default(field: inspect.Field) -> str:
    """As TOML has it; of a table what differs from the defaults of its own keys."""
    if field.required:
        return ""
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "none"
    if isinstance(value, Config):
        plain = type(value)()
        changed = {key: getattr(value, key) for key in value.__struct_fields__ if getattr(value, key) != getattr(plain, key)}
        return ", ".join(f"`{key} = {_toml(each)}`" for key, each in changed.items()) or "its own"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """A value as TOML has it; numbers with the digits that tell them apart from their neighbours."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return msgspec.json.encode(value).decode()
