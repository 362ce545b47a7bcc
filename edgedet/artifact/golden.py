"""The golden inputs: photographs that travel with an artifact, and what its network said of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedet.errors import ArtifactError

GOLDEN = "golden.npz"


@dataclass(frozen=True)
class Golden:
    """Sixteen photographs that parity is checked on, also on the device.

    images: encoded files; pixels: uint8 (N, H, W, 3) after the artifact's preprocessing;
    parent_logits, logits: float32 (N,).
    """

    images: tuple[bytes, ...]
    pixels: npt.NDArray[np.uint8]
    parent_logits: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write an npz without pickled objects: the images are one byte string and their offsets."""
        offsets = np.cumsum([0, *(len(image) for image in self.images)])
        np.savez(
            path,
            images=np.frombuffer(b"".join(self.images), dtype=np.uint8),
            offsets=offsets,
            pixels=self.pixels,
            parent_logits=self.parent_logits.astype(np.float32),
            logits=self.logits.astype(np.float32),
        )

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: the file is missing or not of that form.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                data, ends = file["images"].tobytes(), file["offsets"].tolist()
                images = tuple(data[start:end] for start, end in itertools.pairwise(ends))
                return cls(images, file["pixels"], file["parent_logits"], file["logits"])
        except (OSError, KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: no golden inputs can be read from it: {error}") from error
