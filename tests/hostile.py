"""Files as they come in practice and from people who mean harm, each with what must come of it.

``make(folder)`` writes them; a detector gives every one a score or a one-line error, and never hangs, crashes or guesses.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Outcome = Literal["score", "error"]


@dataclass(frozen=True)
class Hostile:
    """A file and its outcome; `message` is part of the error."""

    path: Path
    outcome: Outcome
    message: str = ""


def make(folder: Path) -> list[Hostile]:
    """Write every hostile file below `folder` (directly in it), and a link `loop` to `folder` that a walk must survive."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [*_good(folder), *_damaged(folder), *_not_files(folder)]
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    return made


def photo(height: int = 48, width: int = 64, channels: int = 3) -> npt.NDArray[np.uint8]:
    """A smooth picture with some noise: (height, width, channels), or without the last axis for one channel."""
    rng = np.random.default_rng(height * width)
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 40, width)[None, :, None]
    pixels = (ramp + rng.integers(0, 15, (height, width, channels))).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def encoded(image: Image.Image, container: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, container, **options)
    return file.getvalue()


def jpeg(**options: Any) -> bytes:
    return encoded(Image.fromarray(photo()), "JPEG", **options)


def png_of_chunks(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    """A PNG from its parts: what Pillow would not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    body = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def rgb_of_16_bit() -> bytes:
    rows = np.broadcast_to(np.linspace(0, 65535, 16).astype(">u2")[:, None, None], (16, 16, 3))
    return png_of_chunks(16, 16, 16, 2, zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))


def giant_jpeg() -> bytes:
    """A good JPEG whose header claims 65500 x 65500."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def frames(container: str) -> bytes:
    pictures = [Image.fromarray(photo()), Image.new("RGB", (64, 48), "red")]
    return encoded(pictures[0], container, save_all=True, append_images=pictures[1:], duration=50)


def palette_with_transparency() -> bytes:
    image = Image.fromarray(photo()).quantize(16)
    return encoded(image, "PNG", transparency=bytes(range(0, 256, 16)))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


def corrupt_exif() -> bytes:
    return jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40)


def _good(folder: Path) -> Iterator[Hostile]:
    files: dict[str, Callable[[], bytes]] = {
        "plain.jpg": jpeg,
        "CAPITALS.JPG": jpeg,
        "cmyk.jpg": lambda: encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG"),
        "grey.jpg": lambda: encoded(Image.fromarray(photo(channels=1)), "JPEG"),
        "16bit.png": lambda: encoded(Image.fromarray(photo(channels=1).astype(np.uint16) * 257), "PNG"),
        "16bit-rgb.png": rgb_of_16_bit,
        "1bit.png": lambda: encoded(Image.fromarray(photo()).convert("1"), "PNG"),
        "animated.gif": lambda: frames("GIF"),
        "animated.webp": lambda: frames("WEBP"),
        "palette-transparency.png": palette_with_transparency,
        "la.png": lambda: encoded(Image.fromarray(photo(channels=1)).convert("LA"), "PNG"),
        "clear.png": lambda: encoded(Image.new("RGBA", (20, 20), (9, 9, 9, 0)), "PNG"),
        "png-named.jpg": lambda: encoded(Image.fromarray(photo()), "PNG"),
        "rotated.jpg": rotated,
        "corrupt-exif.jpg": corrupt_exif,
        "1x1.png": lambda: encoded(Image.new("RGB", (1, 1)), "PNG"),
        "thin.png": lambda: encoded(Image.fromarray(photo(2000, 1)), "PNG"),
        "float.tiff": lambda: encoded(Image.fromarray(photo(channels=1).astype(np.float32) / 255), "TIFF"),
        "pages.tiff": lambda: frames("TIFF"),
        "-rf new\nline.png": lambda: encoded(Image.fromarray(photo()), "PNG"),
        os.fsdecode(b"caf\xe9.png"): lambda: encoded(Image.fromarray(photo()), "PNG"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data())
        yield Hostile(folder / name, "score")


def _damaged(folder: Path) -> Iterator[Hostile]:
    half = jpeg()
    files = {
        "truncated.jpg": (half[: len(half) // 2], "truncated"),
        "truncated.png": (encoded(Image.fromarray(photo()), "PNG")[:400], ""),
        "header-only.jpg": (half[:20], ""),
        "bomb.png": (png_of_chunks(100_000, 100_000, 8, 2, zlib.compress(bytes(100))), "100000x100000"),
        "giant.jpg": (giant_jpeg(), "65500x65500"),
        "nothing-inside.png": (png_of_chunks(16, 16, 8, 2, b""), ""),
        "no-size.png": (png_of_chunks(0, 0, 8, 2, zlib.compress(b"")), ""),
        "empty.jpg": (b"", "not an image"),
        "text.jpg": (b"I am not an image.\n" * 20, "not an image"),
        "page.png": (b"<!DOCTYPE html><html>429 Too Many Requests</html>", "not an image"),
        "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n", "not an image"),
        "cut.tiff": (encoded(Image.fromarray(photo()), "TIFF")[:60], ""),
    }
    for name, (data, message) in files.items():
        (folder / name).write_bytes(data)
        yield Hostile(folder / name, "error", message)


def _not_files(folder: Path) -> Iterator[Hostile]:
    (folder / "folder.jpg").mkdir()
    yield Hostile(folder / "folder.jpg", "error", "directory")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    yield Hostile(folder / "dangling.jpg", "error", "no such file")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    yield Hostile(folder / "itself.jpg", "error")
    (folder / "endless.png").symlink_to("/dev/zero")
    yield Hostile(folder / "endless.png", "error", "a pipe or a device")
    os.mkfifo(folder / "pipe.jpg")
    yield Hostile(folder / "pipe.jpg", "error", "a pipe or a device")
    locked = folder / "locked.jpg"
    locked.write_bytes(jpeg())
    locked.chmod(0)
    # Root reads everything.
    yield Hostile(locked, "score" if os.access(locked, os.R_OK) else "error")
