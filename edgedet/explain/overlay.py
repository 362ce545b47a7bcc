"""A heat-map over the image that the detector was given, beside the image itself, with the verdict below; Pillow and numpy.

The picture is what the network saw, after crop and resize, so that places in the map are places in it. It is shown in grey
under the map, so that colour is the map's alone: red speaks for fake, blue for real, and orange is where attention lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from edgedet.preprocess import Pixels

RED, BLUE, ORANGE = (214, 30, 30), (30, 80, 214), (255, 120, 0)
_SIDE = 360  # small images are enlarged to about this, pixel by pixel
_GAP, _MARGIN, _LINE, _FONT = 8, 10, 20, 14
_OPAQUE = 0.8
_WITHIN = 0.99
_WHITE, _BLACK = (255, 255, 255), (20, 20, 20)

Heat = npt.NDArray[np.float32]


def draw(pixels: Pixels, heat: Heat, lines: Sequence[str], *, signed: bool) -> Image.Image:
    """The image (H, W, 3) and the map (h, w) over it, side by side, above `lines` of text."""
    factor = max(1, round(_SIDE / max(pixels.shape[:2])))
    image = Image.fromarray(pixels)
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    heated = blend(np.asarray(image), heat, signed=signed)
    font = ImageFont.load_default(size=_FONT)
    text = max((math.ceil(font.getlength(line)) for line in lines), default=0)
    width = max(2 * image.width + _GAP, text) + 2 * _MARGIN
    height = image.height + 3 * _MARGIN + _LINE * len(lines)
    sheet = Image.new("RGB", (width, height), _WHITE)
    sheet.paste(image, (_MARGIN, _MARGIN))
    sheet.paste(Image.fromarray(heated), (_MARGIN + image.width + _GAP, _MARGIN))
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((_MARGIN, image.height + 2 * _MARGIN + number * _LINE), line, fill=_BLACK, font=font)
    return sheet


def blend(pixels: Pixels, heat: Heat, *, signed: bool) -> Pixels:
    """`pixels` (H, W, 3) in grey under the colours of `heat` (h, w), which is enlarged to them; uint8 of the same shape.

    The strongest place is the most opaque; a map without differences leaves the picture grey.
    """
    size = (pixels.shape[1], pixels.shape[0])
    strength = normalised(heat, signed=signed)
    enlarged = np.asarray(Image.fromarray(strength).resize(size, Image.Resampling.BILINEAR))[..., None]
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)[..., None]
    towards, away = (RED, BLUE) if signed else (ORANGE, ORANGE)
    colour = np.where(enlarged >= 0, np.array(towards, np.float32), np.array(away, np.float32))
    opacity = _OPAQUE * np.abs(enlarged)
    return np.asarray(np.rint(grey * (1 - opacity) + colour * opacity).clip(0, 255), dtype=np.uint8)


def normalised(heat: Heat, *, signed: bool) -> Heat:
    """A signed map over its largest magnitude, -1 to 1, zero kept; another from its least to its largest value, 0 to 1.

    The hundredth part with the largest magnitudes is cut to the rest: a few pixels do not make all others pale.
    """
    values = heat.astype(np.float32)
    if not signed:
        values = values - values.min()
    largest = float(np.quantile(np.abs(values), _WITHIN)) or float(np.abs(values).max())
    return np.asarray(np.clip(values / largest, -1, 1) if largest > 0 else np.zeros_like(values))
