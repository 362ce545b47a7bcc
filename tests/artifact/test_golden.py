"""Golden inputs are read back as they were written, and nothing that could run is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedet.artifact import Golden
from edgedet.errors import ArtifactError


def test_golden_inputs_survive_the_disk(tmp_path: Path) -> None:
    golden = Golden(
        images=(b"one", b"", b"three" * 9),
        pixels=np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3),
        parent_logits=np.array([1, 2, 3], np.float32),
        logits=np.array([1.5, 2.5, 3.5], np.float32),
    )
    golden.save(tmp_path / "golden.npz")
    again = Golden.load(tmp_path / "golden.npz")
    assert again.images == golden.images
    for name in ("pixels", "parent_logits", "logits"):
        assert np.array_equal(getattr(again, name), getattr(golden, name))


@pytest.mark.parametrize("content", ["text", "pickle", "zip"])
def test_golden_inputs_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "golden.npz"
    if content == "text":
        path.write_text("no archive")
    elif content == "zip":
        np.savez(path, images=np.zeros(3, np.uint8))
    else:
        np.savez(path, images=np.array([{"a": "pickled object"}], dtype=object), offsets=np.zeros(1))
    with pytest.raises(ArtifactError, match="no golden inputs"):
        Golden.load(path)
