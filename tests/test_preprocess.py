"""One definition of pixels: whatever comes, a tensor or an ImageError, the same from path, bytes and Pillow image."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path

import hostile
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgedet.errors import ImageError, RecipeError
from edgedet.preprocess import Preprocess, centre_crop, decode, enlarge, header
from edgedet.recipe import convert

GEOMETRIES = {
    "squash": Preprocess(geometry="resize_squash", height=24, width=32),
    "shorter": Preprocess(geometry="resize_shorter_crop", resize=28, height=24, width=24, interpolation="bicubic"),
    "tile": Preprocess(geometry="crop_only", height=64, width=80, fill="tile"),
    "pad": Preprocess(geometry="crop_only", height=64, width=80, fill="pad"),
    "native": Preprocess(geometry="native"),
    "no antialias": Preprocess(geometry="resize_squash", height=24, width=32, antialias=False),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[hostile.Hostile]:
    return hostile.make(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_hostile_file_gives_pixels_or_one_line(files: list[hostile.Hostile], geometry: str) -> None:
    preprocess = GEOMETRIES[geometry]
    outcomes, said = {}, {}
    for file in files:
        try:
            pixels = preprocess(file.path)
        except ImageError as error:
            outcomes[file.path.name] = "error"
            said[file.path.name] = str(error).startswith(f"{file.path}: ") and file.message in str(error)
        else:
            outcomes[file.path.name] = "score"
            assert pixels.dtype == np.uint8
            assert pixels.flags.c_contiguous
            assert geometry == "native" or pixels.shape == (preprocess.height, preprocess.width, 3)
    assert outcomes == {file.path.name: file.outcome for file in files}
    assert all(said.values()), said
    assert len(files) >= 35


def test_an_error_names_the_file_of_a_path_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for source, words in ((b"no image", "not an image"), (tmp_path / "a.jpg", f"{tmp_path}/a.jpg: not an image")):
        with pytest.raises(ImageError, match=f"^{words} in a known format$"):
            decode(source)


def test_there_is_a_tensor_or_a_counted_error_for_every_file(files: list[hostile.Hostile]) -> None:
    from edgedet.data.facts import facts_of

    facts = [facts_of(file.path) for file in files]
    assert [bool(fact.error) for fact in facts] == [file.outcome == "error" for file in files]
    assert all("\n" not in fact.error for fact in facts)


def opened(data: bytes) -> Image.Image:
    """As a caller would, who may be warned of a corrupt EXIF block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_path_bytes_and_pillow_image_give_the_same_pixels(files: list[hostile.Hostile], geometry: str) -> None:
    for file in files:
        if file.outcome == "error":
            continue
        preprocess, data = GEOMETRIES[geometry], file.path.read_bytes()
        expected = preprocess(file.path)
        with opened(data) as image:
            for source in (str(file.path), data, bytearray(data), memoryview(data), image):
                assert np.array_equal(preprocess(source), expected), file.path.name


def test_an_array_is_taken_as_rgb() -> None:
    pixels = hostile.photo()
    assert np.array_equal(GEOMETRIES["native"](pixels), pixels)
    assert np.array_equal(GEOMETRIES["squash"](pixels), GEOMETRIES["squash"](Image.fromarray(pixels)))
    for wrong in (pixels.astype(np.float32), pixels[..., 0], pixels[..., :2], pixels[:0]):
        with pytest.raises(ImageError, match="expected a uint8 array of height x width x 3"):
            GEOMETRIES["native"](wrong)


def test_the_source_is_left_as_it_was() -> None:
    pixels = hostile.photo()
    image = Image.fromarray(pixels)
    result = GEOMETRIES["native"](image)
    result[:] = 0
    assert np.array_equal(np.asarray(image), pixels)
    assert image.size == (64, 48)


def test_transparency_is_composited_on_white() -> None:
    clear = hostile.encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), "PNG")
    half = hostile.encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    assert decode(clear).getpixel((0, 0)) == (255, 255, 255)
    assert decode(half).getpixel((0, 0)) == (127, 127, 127)
    assert decode(hostile.encoded(palette, "PNG", transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(hostile.encoded(palette, "PNG")).getpixel((0, 0)) == (200, 0, 0)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 30_000, 65_535]], np.uint16)
    pixels = np.asarray(decode(hostile.encoded(Image.fromarray(values), "PNG")))
    assert pixels[0].tolist() == [[0] * 3, [1] * 3, [117] * 3, [255] * 3]


def test_exif_orientation_is_applied() -> None:
    """Orientation 6: the stored image is to be turned clockwise by a quarter."""
    stored = np.asarray(Image.open(io.BytesIO(hostile.rotated())))
    assert np.array_equal(np.asarray(decode(hostile.rotated())), np.rot90(stored, -1))


def test_a_header_says_how_a_file_was_encoded() -> None:
    photo = Image.new("RGB", (32, 16), "teal")
    found = header(hostile.encoded(photo, "JPEG", quality=90, subsampling="4:2:2"))
    assert (found.container, found.subsampling, found.orientation) == ("JPEG", "4:2:2", 1)
    assert found.tables is not None
    assert found.tables[0][:3] == [3, 2, 2]  # table K.1 begins 16, 11, 10: a fifth of it at quality 90
    grey = header(hostile.encoded(photo.convert("L"), "JPEG"))
    assert grey.subsampling is None
    assert grey.tables is not None
    assert header(hostile.encoded(photo, "PNG")) == ("PNG", None, None, 1)
    assert header(hostile.rotated()).orientation == 6


@pytest.mark.parametrize("container", ["GIF", "WEBP", "TIFF"])
def test_the_first_frame_counts(container: str) -> None:
    assert np.asarray(decode(hostile.frames(container))).std() > 20  # the second frame is plain red


def test_what_lies_behind_the_first_page_is_not_read() -> None:
    """A TIFF whose next page lies nowhere; a chain of pages takes long to walk along."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "TIFF")
    data = bytearray(file.getvalue())
    start = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[start : start + 2], "little")
    following = start + 2 + 12 * entries
    data[following : following + 4] = len(data).to_bytes(4, "little")
    assert decode(bytes(data + b"\1\0" + b"\xff" * 16)).getpixel((0, 0)) == (255, 0, 0)


def test_cmyk_and_grey_become_rgb() -> None:
    cmyk = hostile.encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    red, green, blue = decode(cmyk).getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15
    assert len(set(decode(hostile.encoded(Image.new("L", (8, 8), 77), "PNG")).getpixel((0, 0)))) == 1


def test_the_pixel_limit_is_ours_and_can_be_raised() -> None:
    image = hostile.encoded(Image.new("RGB", (100, 50)), "PNG")
    with pytest.raises(ImageError, match=r"100x50 has more than 4,999 pixels: raise `preprocess\.max_pixels`"):
        decode(image, max_pixels=4999)
    assert decode(image, max_pixels=5000).size == (100, 50)


def test_pillows_own_limit_does_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(hostile.jpeg()).size == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_thin_image_does_not_become_a_giant() -> None:
    thin = Image.new("RGB", (1, 30_000))
    shorter = Preprocess(geometry="resize_shorter_crop", resize=224, height=224, width=224)
    with pytest.raises(ImageError, match="too thin"):
        shorter(thin)


def bilinear_at(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.float64]:
    """Point-sampled bilinear interpolation at pixel centres, with borders repeated: one output at a time."""
    out = np.zeros((height, width, 3))
    rows, columns = pixels.shape[:2]
    for y in range(height):
        for x in range(width):
            at_y, at_x = (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5
            top, left = int(np.floor(at_y)), int(np.floor(at_x))
            for row, weight_y in ((top, top + 1 - at_y), (top + 1, at_y - top)):
                for column, weight_x in ((left, left + 1 - at_x), (left + 1, at_x - left)):
                    value = pixels[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
                    out[y, x] += weight_y * weight_x * value
    return out


def test_without_antialias_is_point_sampling() -> None:
    pixels = hostile.photo()
    assert np.abs(GEOMETRIES["no antialias"](pixels)[1:-1, 1:-1] - bilinear_at(pixels, 24, 32)[1:-1, 1:-1]).max() <= 1.0


def test_crop_keeps_pixels_as_they_are() -> None:
    pixels = hostile.photo(90, 100)
    assert np.array_equal(GEOMETRIES["tile"](pixels), pixels[13:77, 10:90])
    assert np.array_equal(centre_crop(pixels, 89, 99), pixels[:89, :99])


def test_small_images_are_tiled_or_mirrored_without_resampling() -> None:
    pixels = hostile.photo(3, 4)
    tiled, mirrored = enlarge(pixels, 7, 9, "tile"), enlarge(pixels, 7, 9, "pad")
    assert np.array_equal(tiled, np.tile(pixels, (3, 3, 1))[:7, :9])
    assert np.array_equal(mirrored[2:5, 2:6], pixels)
    assert np.array_equal(mirrored[1], mirrored[2])
    assert enlarge(pixels, 2, 2, "pad") is pixels


def test_native_is_filled_up_to_a_patch() -> None:
    pixels = hostile.photo(10, 66)
    native = Preprocess(geometry="native", patch=16, fill="pad")
    found = native(pixels)
    assert found.shape == (16, 66, 3)
    assert np.array_equal(found[3:13], pixels)
    assert np.array_equal(found[:3], pixels[2::-1])  # mirrored
    assert np.array_equal(native(hostile.photo(40, 16)), hostile.photo(40, 16))


def test_native_is_trimmed_to_a_multiple() -> None:
    pixels = hostile.photo(49, 66)
    native = Preprocess(geometry="native", multiple=4)
    assert np.array_equal(native(pixels), pixels[:48, :64])
    with pytest.raises(ImageError, match="smaller than the required multiple of 4"):
        native(hostile.photo(3, 66))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"geometry": "resize_shorter_crop"}, "needs `resize`"),
        ({"geometry": "resize_shorter_crop", "resize": 100}, "smaller than the crop 224x224"),
        ({"resize": 256}, "no meaning"),
        ({"patch": 224}, "`patch` has no meaning with geometry `resize_squash`"),
        ({"std": [0.5, 0, 0.5]}, "`std` must be positive"),
        ({"height": 30, "multiple": 4}, "no multiple"),
        ({"height": 0}, "height"),
        ({"geometry": "squash"}, "geometry"),
        ({"heigth": 32}, "unknown key 'heigth'; did you mean 'height'"),
    ],
)
def test_a_wrong_definition_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        convert(given, Preprocess, source="test.toml")


def test_lanczos_needs_antialias() -> None:
    with pytest.raises(ImageError, match="lanczos without antialias"):
        Preprocess(height=8, width=8, interpolation="lanczos", antialias=False)(hostile.photo())


def test_threads_leave_the_warning_filters_alone(tmp_path: Path) -> None:
    before, data, wrong = list(warnings.filters), hostile.corrupt_exif(), []

    def work() -> None:
        for _ in range(20):
            try:
                decode(data)
            except Warning as warning:  # an error under this suite's filters
                wrong.append(warning)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert warnings.filters == before
