"""The tiny data set of `red_fakes`, and a cache of its own for each test."""

from collections.abc import Callable
from pathlib import Path

import pytest
import red_fakes

from edgedet.data.index import Index

MakeIndex = Callable[..., Index]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_index(tmp_path: Path) -> MakeIndex:
    def make(*arguments: int, name: str = "data", **more: object) -> Index:
        return red_fakes.make_index(tmp_path / name, *arguments, **more)

    return make
