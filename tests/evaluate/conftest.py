"""A tiny data set on disk: fakes are redder than reals, each generator by its own amount."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedet.data.index import FAKE, REAL, Index, Row

MakeIndex = Callable[..., Index]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_index(tmp_path: Path) -> MakeIndex:
    def make(
        count: int = 20, *, redness: dict[str, int] | None = None, split: str = "val", sizes=((16, 12),), name: str = "data"
    ) -> Index:
        rng = np.random.default_rng(0)
        rows = []
        for generator, red in {"camera": 0, **(redness or {"gan": 60, "diffusion": 25})}.items():
            for number in range(count):
                width, height = sizes[number % len(sizes)]
                pixels = rng.integers(80, 160, (height, width, 3))
                pixels[..., 0] += red + int(rng.integers(-30, 31))
                path = tmp_path / name / generator / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8), mode="RGB").save(path)
                rows.append(
                    Row(
                        path=path.relative_to(tmp_path / name).as_posix(),
                        label=REAL if generator == "camera" else FAKE,
                        generator=generator,
                        split=split,
                        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                    )
                )
        return Index(tmp_path / name, tuple(rows))

    return make
