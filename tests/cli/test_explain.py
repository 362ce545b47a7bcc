"""``edgedet explain``: a picture for each image, figures for people and machines, and the border figure of a folder."""

import json

import pytest
from command import assert_one_line
from PIL import Image


@pytest.fixture
def images(demo):
    return sorted((demo.data / "test").rglob("*.jpg"))


def test_one_image_is_one_picture(edgedet, demo, images, tmp_path):
    done = edgedet("explain", demo.teacher, images[0], "--out", tmp_path / "new" / "a.png", "--threads", "1")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.format == "PNG"
    assert "cam" in done.out
    assert "border: " in done.out or "no map has anything" in done.out


def test_a_folder_is_a_folder_of_pictures_and_one_border_figure(edgedet, demo, images, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.jpg").write_bytes(images[0].read_bytes())
    (tmp_path / "b" / "other.jpg").write_bytes(images[-1].read_bytes())
    arguments = ("explain", demo.teacher, tmp_path / "a", tmp_path / "b", "--method", "gradcam", "--threads", "1")
    done = edgedet(*arguments, "--out", tmp_path / "maps", "--json", "-")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["other.png", "same-2.png", "same.png"]
    said = json.loads(done.out)
    assert said["method"] == "gradcam"
    assert [each["verdict"] in ("fake", "real") for each in said["images"]] == [True] * 3
    assert [each["picture"] for each in said["images"]] == [
        str(tmp_path / "maps" / name) for name in ("same.png", "other.png", "same-2.png")
    ]
    masses = [each["border"] for each in said["images"] if each["border"] is not None]
    assert said["border"]["images"] == len(masses)
    if masses:
        assert said["border"]["mass"] == pytest.approx(sum(masses) / len(masses))


def test_without_pictures_the_figures_are_there(edgedet, demo, images):
    done = edgedet("explain", demo.teacher, *images[:3], "--json", "-", "--threads", "1")
    assert done.code == 0
    assert [each["picture"] for each in json.loads(done.out)["images"]] == [None] * 3


def test_what_cannot_be_read_is_said_and_counted(edgedet, demo, images, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    done = edgedet("explain", demo.teacher, tmp_path / "broken.jpg", images[0], "--threads", "1")
    assert done.code == 1
    assert "broken.jpg: not an image in a known format" in done.err
    assert done.err.splitlines()[-1] == "edgedet: 1 of 2 could not be read"


@pytest.mark.parametrize(
    ("what", "options", "code", "words"),
    [
        ("teacher", ["--method", "rollout"], 1, ["no such map of edge32-teacher and 'rollout'; there is: cam, gradcam"]),
        ("teacher", ["--method", "came"], 1, ["no method is called 'came'"]),
        ("teacher", ["--layer", "nowhere"], 1, ["no layer is called 'nowhere'"]),
        ("fp32", [], 1, ["this graph gives no map", "--maps"]),
        ("fp32", ["--layer", "x"], 1, ["a graph has no modules"]),
        ("teacher", ["--operating-point", "fpr9"], 1, ["no operating point 'fpr9'"]),
    ],
)
def test_bad_requests_are_one_line(edgedet, demo, images, what, options, code, words):
    done = edgedet("explain", getattr(demo, what), images[0], *options, "--threads", "1")
    assert done.code == code
    assert_one_line(done.err, *words)


def test_two_images_do_not_fit_in_one_picture(edgedet, demo, images, tmp_path):
    done = edgedet("explain", demo.teacher, *images[:2], "--out", tmp_path / "a.png")
    assert done.code == 2
    assert_one_line(done.err, "2 images need a folder")


@pytest.mark.parametrize("out", ["a.png", "."])
def test_no_picture_takes_the_place_of_an_image(edgedet, demo, images, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with Image.open(images[0]) as image:
        image.save("a.png")
    before = (tmp_path / "a.png").read_bytes()
    done = edgedet("explain", demo.teacher, tmp_path / "a.png", "--out", out, "--threads", "1")
    assert done.code == 2
    assert_one_line(done.err, "would take the place of the image a.png")
    assert (tmp_path / "a.png").read_bytes() == before
