"""Parts of an image set to grey: patches of a grid, or one square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedet.data.augment.draws import Batch, Draws, Mask

if TYPE_CHECKING:
    from edgedet.data.augment.config import Augment

GREY = 128


def hidden(shape: tuple[int, int], settings: Augment, draws: Draws, count: int) -> Mask:
    """(B, H, W): what :func:`hide` sets to grey in images of `shape`."""
    out = np.zeros((count, *shape), dtype=bool)
    if settings.mask:
        out |= _patches(shape, settings, draws, count)
    if settings.cutout:
        out |= _square(shape, settings.cutout, draws)
    return out


def hide(images: Batch, where: Mask) -> Batch:
    """uint8 (B, H, W, 3) with the pixels `where` set to grey, in place, and returned."""
    # The whole mask, three values a pixel, is five times as fast as an index or a mask that is broadcast.
    np.copyto(images, GREY, where=where[..., None].repeat(3, axis=3))
    return images


def _patches(shape: tuple[int, int], settings: Augment, draws: Draws, count: int) -> Mask:
    """Of `mask` of the images a share from 0 to `mask_share` of the patches; those at the right and bottom may be cut."""
    side = settings.mask_patch
    rows, columns = (-(-length // side) for length in shape)
    chosen, share = draws.chance(settings.mask), draws.uniform(0, settings.mask_share)
    number = np.where(chosen, np.floor(share * rows * columns), 0)
    patches = (draws.ranks(rows * columns) < number[:, None]).reshape(count, rows, columns)
    return patches.repeat(side, axis=1).repeat(side, axis=2)[:, : shape[0], : shape[1]]


def _square(shape: tuple[int, int], side: int, draws: Draws) -> Mask:
    inside = []
    for length in shape:
        starts = draws.integers(0, max(0, length - side))[:, None]
        inside.append((np.arange(length) >= starts) & (np.arange(length) < starts + side))
    return inside[0][:, :, None] & inside[1][:, None, :]
