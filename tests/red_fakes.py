"""A tiny data set on disk: fakes are redder than reals, each generator by its own amount."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from edgedet.data.index import FAKE, REAL, Index, Row


def make_index(
    root: Path, count: int = 20, *, redness: dict[str, int] | None = None, split: str = "val", sizes=((16, 12),)
) -> Index:
    rng = np.random.default_rng(0)
    rows = []
    for generator, red in {"camera": 0, **(redness or {"gan": 60, "diffusion": 25})}.items():
        for number in range(count):
            width, height = sizes[number % len(sizes)]
            pixels = rng.integers(80, 160, (height, width, 3))
            pixels[..., 0] += red + int(rng.integers(-30, 31))
            path = root / generator / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8), mode="RGB").save(path)
            rows.append(
                Row(
                    path=path.relative_to(root).as_posix(),
                    label=REAL if generator == "camera" else FAKE,
                    generator=generator,
                    split=split,
                    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                )
            )
    return Index(root, tuple(rows))
