"""One image as square patches: where a detector that reads patches looks, in the network and on the device alike.

Source: Karageorgiou et al., "Any-Resolution AI-Generated Image Detection by Spectral Learning" (SPAI), CVPR 2025.
"""

from __future__ import annotations

import numpy as np

from edgedet.errors import ImageError
from edgedet.preprocess import Pixels

FEWEST = 4
"""Of the patches of a grid; an image that has fewer is read at its corners and in its middle."""

AT_ONCE = 16
"""Patches that are encoded in one go where no gradient is wanted: the images of one batch may have a thousand."""

FEATURES = "features"
"""The output of an encoder's graph, (P, F): the features of each patch."""


def windows(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """Top and left of every patch of `side` pixels that is read of an image of `height` x `width`.

    A grid from the top left, without overlap: what does not fill a patch at the right and at the bottom is not read. Where that
    makes fewer than :data:`FEWEST`, the four corners and the middle, which overlap. An image of the size of a patch is one
    patch: five alike would weigh what one weighs.

    Raises:
        ImageError: the image is smaller than a patch.
    """
    down, right = height - side, width - side
    if down < 0 or right < 0:
        raise ImageError(f"an image of {width}x{height} is smaller than a patch of {side}x{side}: fill it up first")
    grid = [(top, left) for top in range(0, down + 1, side) for left in range(0, right + 1, side)]
    if len(grid) >= FEWEST or down == right == 0:
        return grid
    return [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]


def cut(pixels: Pixels, side: int) -> Pixels:
    """uint8 (height, width, 3) -> the patches that are read of it, uint8 (P, side, side, 3).

    Raises:
        ImageError: the image is smaller than a patch.
    """
    height, width = pixels.shape[:2]
    return np.stack([pixels[top : top + side, left : left + side] for top, left in windows(height, width, side)])
