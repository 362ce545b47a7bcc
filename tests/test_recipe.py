"""Recipes are found by name or path, and whatever is wrong in one is named: file, key, value, and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from edgedet import recipe
from edgedet.errors import RecipeError, RecipeNotFound
from edgedet.recipe import Config


class Optimizer(Config, frozen=True, kw_only=True):
    name: Literal["adamw", "sgd"] = "adamw"
    rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3


class Training(Config, frozen=True, kw_only=True):
    epochs: Annotated[int, msgspec.Meta(ge=1)] = 3
    optimizer: Optimizer = Optimizer()
    tags: tuple[str, ...] = ()


class Recipe(Config, frozen=True, kw_only=True):
    detector: str
    training: Training = Training()
    steps: tuple[Optimizer, ...] = ()

    def __post_init__(self) -> None:
        if self.detector == "none":
            raise ValueError("`detector` must be one")


GOOD = """
detector = "npr"
[training]
epochs = 5
[training.optimizer]
name = "sgd"
"""


def parsed(text: str = GOOD, *overrides: str) -> Recipe:
    return recipe.parse(text, Recipe, source="npr.toml", overrides=overrides)


def test_a_recipe_becomes_a_frozen_struct() -> None:
    got = parsed()
    assert got == Recipe(detector="npr", training=Training(epochs=5, optimizer=Optimizer(name="sgd")))
    with pytest.raises(AttributeError):
        got.detector = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("training.epochs=9", lambda got: got.training.epochs == 9),
        ("training.optimizer.rate = 0.5", lambda got: got.training.optimizer.rate == 0.5),
        ("detector=resnet50", lambda got: got.detector == "resnet50"),
        ("detector='a=b'", lambda got: got.detector == "a=b"),
        ('training.tags=["x", "y"]', lambda got: got.training.tags == ("x", "y")),
    ],
)
def test_any_key_can_be_set_on_the_line(override: str, read: object) -> None:
    assert callable(read)
    assert read(parsed(GOOD, override))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('detectr = "npr"', r"^npr\.toml: unknown key 'detectr'; did you mean 'detector'\?$"),
        ('detector = "npr"\n[training]\nepoch = 3', r"unknown key 'training\.epoch'; did you mean 'epochs'\?"),
        ('detector = "npr"\n[training.optimizer]\nlr = 3', r"unknown key 'training\.optimizer\.lr'; allowed: name, rate"),
        ('detector = "npr"\n[[steps]]\nrat = 1.0', r"unknown key 'steps\[0\]\.rat'; did you mean 'rate'\?"),
        ('detector = "npr"\n[training]\nepochs = "5"', r"training\.epochs: expected `int`, got `str`, got '5'"),
        ('detector = "npr"\n[training]\nepochs = 0', r"training\.epochs: expected `int` >= 1, got 0"),
        ('detector = "npr"\n[training.optimizer]\nname = "adam"', r"training\.optimizer\.name: invalid enum value 'adam'"),
        ("[training]\nepochs = 1", "missing required field `detector`"),
        ('detector = "none"', "`detector` must be one"),
        ("detector = ", "not valid TOML"),
    ],
)
def test_an_error_names_the_file_and_the_key(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parsed(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "write key=value"),
        ("=3", "write key=value"),
        ("detector.x=3", "'detector' is a value, not a table"),
        ("training.epochs=many", r"training\.epochs: expected `int`"),
        ("training.epoch=3", "did you mean 'epochs'"),
    ],
)
def test_a_bad_override_says_so(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parsed(GOOD, override)


def test_found_by_name_in_the_checkout_or_the_wheel_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "edgedet"
    (package / "_shipped" / "train").mkdir(parents=True)
    (package / "_shipped" / "train" / "npr.toml").write_text('detector = "shipped"')
    monkeypatch.setattr(recipe, "__file__", str(package / "recipe.py"))
    assert recipe.names("train") == ["npr"]
    assert recipe.load("train", "npr", Recipe).detector == "shipped"

    (tmp_path / "site" / "train").mkdir()
    (tmp_path / "site" / "train" / "npr.toml").write_text('detector = "checkout"')
    assert recipe.load("train", "npr", Recipe).detector == "shipped"  # a folder called train is not yet a checkout
    (tmp_path / "site" / "pyproject.toml").touch()
    assert recipe.load("train", "npr", Recipe).detector == "checkout"

    (tmp_path / "mine.toml").write_text('detector = "mine"')
    assert recipe.load("train", str(tmp_path / "mine.toml"), Recipe, ["training.epochs=2"]).training.epochs == 2


def test_what_is_not_there_has_the_nearest_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgedet" / "_shipped" / "export").mkdir(parents=True)
    (tmp_path / "edgedet" / "_shipped" / "export" / "cpu-x86.toml").touch()
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "edgedet" / "recipe.py"))
    with pytest.raises(RecipeNotFound, match="no target is called 'cpu-x68'; did you mean 'cpu-x86'"):
        recipe.find("export", "cpu-x68")
    with pytest.raises(RecipeNotFound, match=r"no recipe file at here/x\.toml"):
        recipe.find("train", "here/x.toml")


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.load("train", str(tmp_path / "x.toml"), Recipe)
