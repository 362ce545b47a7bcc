"""Every key of a recipe, as the command prints it and as docs/recipes.md has it."""

import functools
import json
from pathlib import Path
from typing import Literal

import msgspec
import pytest

pytest.importorskip("torch")
from edgedet.cli.keys import described, markdown, tables
from edgedet.recipe import Config, names, parse

DOCS = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


@functools.cache
def by_header():
    return {table.header: {key.name: key for key in table.keys} for table in tables()}


def test_the_page_is_what_the_command_writes(edgedet):
    written = edgedet("recipes", "--keys").out
    assert written == DOCS.read_text(encoding="utf-8"), "run `edgedet recipes --keys > docs/recipes.md`"
    assert written.rstrip() == markdown(tables()).rstrip()


def test_every_key_says_what_it_means_and_every_table_what_it_is():
    silent = [f"{table.header} {key.name}" for table in tables() for key in table.keys if not key.meaning]
    assert not silent, "give it a line `key: meaning` in the docstring of its struct"
    assert all(table.about for table in tables())


def test_every_key_of_every_recipe_is_listed():
    headers = by_header()
    for name in names("train"):
        recipe = parse((DOCS.parents[1] / "train" / f"{name}.toml").read_text(encoding="utf-8"), dict, source=name)
        for path, table in _tables(recipe):
            if not path.startswith(("published", "detector.arguments")):
                known = headers.get(f"[{path}]") or headers.get(f"[[{path}]]") or headers[f'stage = "{recipe["stage"]}"']
                assert table.keys() - {"stage"} <= known.keys(), f"{name}: [{path}]"


def _tables(tree, path=""):
    yield path, tree
    for key, value in tree.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from _tables(each, f"{path}.{key}".lstrip("."))


def test_a_key_has_its_type_its_limits_and_its_default():
    training = by_header()["[training]"]
    assert (training["epochs"].takes, training["epochs"].default) == ("integer above 0", "`10`")
    assert (training["lr"].takes, training["lr"].default) == ("number above 0", "`0.001`")
    assert (training["momentum"].takes, training["freeze"].takes) == ("number at least 0, at most 1", "list of text")
    assert (training["ema"].takes, training["ema"].default) == ("number above 0, below 1", "none")
    assert training["loss"].takes == "`bce`, `focal`"
    assert (training["betas"].takes, training["betas"].default) == ("list of 2: number", "`[0.9, 0.999]`")
    assert training["amp"].takes == "`true`, `false`"
    assert (training["phases"].takes, training["phases"].default) == ("tables", "`[]`")
    assert by_header()["[[training.phases]]"]["train"].takes == "list of text"
    assert by_header()["[detector]"]["name"].default == "", "it must be given"
    assert by_header()["[preprocess]"]["height"].default == "the detector's"


def test_a_stages_own_defaults_are_told():
    assert by_header()['stage = "prune"']["training"].default == "`epochs = 2`"


def test_the_same_as_json(edgedet):
    listed = json.loads(edgedet("recipes", "--keys", "--json", "-").out)
    assert listed == msgspec.json.decode(msgspec.json.encode(tables()))


class Example(Config, frozen=True, kw_only=True):
    """What it is
    for.

    one, two: both, which
        goes on.
    kind:
        ``a``: the first | of them.
    A sentence: about nothing.
    """

    one: int
    two: int = 2
    kind: Literal["a", "b"] = "a"


def test_meanings_are_read_from_docstrings():
    about, meanings = described(Example)
    assert about == "What it is for. A sentence: about nothing."
    assert meanings == {"one": "both, which goes on.", "two": "both, which goes on.", "kind": "`a`: the first | of them."}
