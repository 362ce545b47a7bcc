"""Bytes to pixels: the one definition that training, range-finding, evaluation and the device share.

Decode, then geometry, on Pillow and numpy alone; the result is uint8 RGB, height x width x 3. Normalisation is not here:
it is inside the exported graph (and inside the model in training), which takes the same uint8 pixels.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from edgedet.errors import ImageError
from edgedet.recipe import Config

Pixels = npt.NDArray[np.uint8]
"""uint8 RGB, height x width x 3."""

Source = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, Image.Image, npt.NDArray[Any]]
"""What can be turned into pixels: a path, an encoded file's bytes, a Pillow image, or uint8 height x width x 3."""

DEFAULT_MAX_PIXELS = 100_000_000
"""A decompression bomb is refused by its header, before any pixel is decoded."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is decoded. The rest of what Pillow reads is left out: no photograph comes so, and a PostScript file would be run."""

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_SUBSAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
"""Pillow's numbers for them."""

Positive = Annotated[int, msgspec.Meta(gt=0)]
Channel = tuple[float, float, float]


class Preprocess(Config, frozen=True, kw_only=True):
    """How an image becomes a detector's input; it travels in the manifest of every artifact.

    geometry:
        ``resize_squash``: to height x width, the aspect ratio is not kept.
        ``resize_shorter_crop``: the shorter side to `resize`, then the centre crop.
        ``crop_only``: the centre crop; a smaller image is padded (edge pixels mirrored) or tiled, as `fill` says.
        ``native``: the image as it is, trimmed at the right and bottom to a multiple of `multiple`.
    height, width: of the input in pixels.
    resize: length of the shorter side for ``resize_shorter_crop``, and for no other.
    interpolation: of the resize.
    antialias: whether shrinking averages over all pixels, as Pillow does, or samples points, as OpenCV does.
    fill: how ``crop_only`` enlarges what is smaller than the crop: by mirrored edges, or by repetition.
    multiple: what both sides must be a multiple of.
    patch: for ``native`` and a detector that reads square patches of this side (:mod:`edgedet.patches`): a smaller image is
        filled up to one patch, as `fill` says.
    mean, std: applied inside the graph, to pixels in [0, 1].
    max_pixels: a file with more is refused before it is decoded.
    """

    geometry: Literal["resize_squash", "resize_shorter_crop", "crop_only", "native"] = "resize_squash"
    height: Positive = 224
    width: Positive = 224
    resize: Positive | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    antialias: bool = True
    fill: Literal["pad", "tile"] = "tile"
    multiple: Positive = 1
    patch: Positive | None = None
    mean: Channel = (0.5, 0.5, 0.5)
    std: Channel = (0.5, 0.5, 0.5)
    max_pixels: Positive = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        if self.geometry == "resize_shorter_crop":
            if self.resize is None:
                raise ValueError("`resize_shorter_crop` needs `resize`, the length of the shorter side")
            if self.resize < max(self.height, self.width):
                raise ValueError(f"`resize` is {self.resize}, smaller than the crop {self.height}x{self.width}")
        elif self.resize is not None:
            raise ValueError(f"`resize` has no meaning with geometry `{self.geometry}`: remove it")
        if self.patch is not None and self.geometry != "native":
            raise ValueError(f"`patch` has no meaning with geometry `{self.geometry}`: remove it")
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be positive, got {self.std}")
        if self.geometry != "native" and (self.height % self.multiple or self.width % self.multiple):
            raise ValueError(f"{self.height}x{self.width} is no multiple of `multiple` = {self.multiple}")

    def __call__(self, source: Source) -> Pixels:
        """Decode `source` and apply the geometry: uint8 RGB, (height, width, 3).

        Raises:
            ImageError: not an image, truncated, larger than `max_pixels`, or too small for the geometry.
        """
        return self.apply(decode(source, max_pixels=self.max_pixels))

    def apply(self, image: Image.Image) -> Pixels:
        """The geometry alone, on an RGB image; a numpy array (writable, C order)."""
        if self.geometry == "resize_squash":
            image = _resize(image, self.height, self.width, self.interpolation, self.antialias)
        elif self.resize is not None:  # resize_shorter_crop, and no other
            scale = self.resize / min(image.size)
            height, width = max(self.resize, round(image.height * scale)), max(self.resize, round(image.width * scale))
            if height * width > self.max_pixels:
                raise ImageError(
                    f"{image.width}x{image.height} is too thin: with its shorter side at {self.resize} it would have more than "
                    f"{self.max_pixels:,} pixels; crop it, or raise `preprocess.max_pixels`"
                )
            image = _resize(image, height, width, self.interpolation, self.antialias)
            return centre_crop(np.array(image), self.height, self.width)
        elif self.geometry == "crop_only":
            return centre_crop(enlarge(np.array(image), self.height, self.width, self.fill), self.height, self.width)
        else:
            least = self.patch or 1
            return _trim(enlarge(np.array(image), least, least, self.fill), self.multiple)
        return np.array(image)


def decode(source: Source, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """The first frame of an image as RGB: EXIF orientation applied, alpha composited on white, 16 bit scaled to 8.

    Raises:
        ImageError: what came is not an image, is damaged, or has more than `max_pixels` pixels; names the file of a path.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    where = f"{source}: " if isinstance(source, (str, os.PathLike)) else ""
    try:
        with _quiet, _open(source, max_pixels) as image:
            return _to_rgb(image)
    except ImageError as error:
        raise ImageError(f"{where}{error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{where}not an image in a known format") from error
    except FileNotFoundError as error:
        raise ImageError(f"{where}no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{where}a directory, not an image") from error
    except OSError as error:
        raise ImageError(f"{where}cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged files (struct.error, KeyError, SyntaxError ...).
        raise ImageError(f"{where}damaged image: {type(error).__name__}: {error}") from error


class Header(NamedTuple):
    """What a file says of how it was encoded.

    container: Pillow's name of the format. orientation: of EXIF, 1 (upright) to 8; :func:`decode` applies it.
    tables, subsampling: the quantization tables (zigzag undone) and the chroma subsampling of a JPEG; None when there are none.
    """

    container: str
    tables: Mapping[int, Sequence[int]] | None = None
    subsampling: str | None = None
    orientation: int = 1


def header(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """The header of a file that :func:`decode` takes."""
    with opened(data, max_pixels=max_pixels) as image:
        container, orientation = image.format or "", image.getexif().get(ExifTags.Base.Orientation, 1)
        if not isinstance(image, JpegImageFile):
            return Header(container, orientation=orientation)
        return Header(container, image.quantization, _SUBSAMPLING.get(get_sampling(image)), orientation)


@contextlib.contextmanager
def opened(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Iterator[Image.Image]:
    """A file that :func:`decode` takes, as Pillow has opened it: for what its header says."""
    with _quiet, _open(data, max_pixels) as image:
        yield image


def centre_crop(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle (height, width, 3) of `pixels`; the odd row or column is left at the bottom or right."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def enlarge(pixels: Pixels, height: int, width: int, fill: Literal["pad", "tile"]) -> Pixels:
    """`pixels` made at least (height, width, 3), without resampling: mirrored (``pad``) or repeated (``tile``)."""
    missing_rows, missing_columns = max(0, height - pixels.shape[0]), max(0, width - pixels.shape[1])
    if not missing_rows and not missing_columns:
        return pixels
    mode: Literal["symmetric", "wrap"] = "symmetric" if fill == "pad" else "wrap"
    before = (missing_rows // 2, missing_columns // 2) if fill == "pad" else (0, 0)
    after = (missing_rows - before[0], missing_columns - before[1])
    return np.pad(pixels, ((before[0], after[0]), (before[1], after[1]), (0, 0)), mode=mode)


class _Quiet:
    """Pillow's warnings and its own pixel limit off: ours decides, and odd metadata in a readable image is no news.

    Both are settings of the whole process, and ``warnings.catch_warnings`` left in another order than entered restores the
    wrong filters. So the first thread in turns them off, and the last one out turns them on again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._outer = warnings.catch_warnings()
        self._limit = Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._outer = warnings.catch_warnings()
                self._outer.__enter__()
                warnings.simplefilter("ignore")
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit
                self._outer.__exit__(None, None, None)


_quiet = _Quiet()


def _open(source: str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image, max_pixels: int) -> Image.Image:
    if isinstance(source, Image.Image):
        image = source.copy()
    elif isinstance(source, (bytes, bytearray, memoryview)):
        image = Image.open(io.BytesIO(source), formats=_formats())
    else:
        path = Path(source)
        if path.exists() and not path.is_dir() and not path.is_file():
            # Reading a pipe may never return, and a device may never end.
            raise ImageError("a pipe or a device, not a regular file")
        image = Image.open(path, formats=_formats())
    if image.width * image.height > max_pixels:
        image.close()
        raise ImageError(
            f"{image.width}x{image.height} has more than {max_pixels:,} pixels: raise `preprocess.max_pixels` to accept it"
        )
    return image


@functools.lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Of `FORMATS`, those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bit, or float, scaled to 8 bit: Pillow's own conversion clips instead."""
    values = np.asarray(image).astype(np.float64)
    float_top = 1.0 if values.size and values.max() <= 1.0 else 255.0
    top = float_top if image.mode == "F" else 65535.0
    scaled = np.nan_to_num(values / top, nan=0.0, posinf=1.0, neginf=0.0)
    return Image.fromarray((scaled.clip(0, 1) * 255 + 0.5).astype(np.uint8), mode="L")


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(
            f"expected a uint8 array of height x width x 3 (RGB), got {array.dtype} of shape {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array), mode="RGB")


def _resize(image: Image.Image, height: int, width: int, interpolation: str, antialias: bool) -> Image.Image:
    if image.size == (width, height):
        return image
    resample = FILTERS[interpolation]
    if antialias or interpolation == "nearest":
        return image.resize((width, height), resample)
    if interpolation == "lanczos":
        raise ImageError("lanczos without antialias is not defined: set `antialias = true`")
    # Point sampling at the same pixel centres: an affine transform never widens the kernel.
    matrix = (image.width / width, 0.0, 0.0, 0.0, image.height / height, 0.0)
    return image.transform((width, height), Image.Transform.AFFINE, matrix, resample=resample)


def _trim(pixels: Pixels, multiple: int) -> Pixels:
    height, width = (math.floor(side / multiple) * multiple for side in pixels.shape[:2])
    if not height or not width:
        raise ImageError(f"{pixels.shape[1]}x{pixels.shape[0]} is smaller than the required multiple of {multiple}")
    return np.ascontiguousarray(pixels[:height, :width])
