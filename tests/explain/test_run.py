"""From an artifact and images to maps: the same from a checkpoint and from its graph, and a reason for what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image
from test_imports import BLOCKED

from edgedet.artifact import Artifact, DetectorSpec
from edgedet.data.simulate import golden_images
from edgedet.errors import ExplainError, ImageError
from edgedet.explain.heat import METHODS, choose, open_explainer, split
from edgedet.explain.run import Explanation, Run
from edgedet.export.anchor import untrained
from edgedet.export.stage import ExportConfig
from edgedet.export.stage import run as export
from edgedet.preprocess import Preprocess
from edgedet.runtime.detector import Detector

SPEC = DetectorSpec(name="edgenet", arguments={"stem": 16, "widths": [16, 32], "depths": [1, 1], "strides": [1, 2]})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Artifact:
    return untrained(tmp_path_factory.mktemp("explain") / "checkpoint", SPEC, Preprocess(height=32, width=32), golden=4)


@pytest.fixture(scope="module")
def graph(checkpoint) -> Artifact:
    return export(ExportConfig(maps=True, target="cpu-x86"), checkpoint, None, checkpoint.path.with_name("graph"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for number, data in enumerate(golden_images(5, 64)):
        (folder / f"{number}.img").write_bytes(data)
    (folder / "broken.img").write_bytes(b"no image")
    return sorted(folder.iterdir())


def explained(artifact: Artifact, images: list[Path], method: str = "auto", **options) -> tuple[Run, list]:
    explainer = open_explainer(artifact, threads=1)
    run = Run(artifact, explainer, method, **options)
    found = list(run.each(images))
    explainer.close()
    return run, found


def test_a_graph_gives_the_maps_of_its_checkpoint_and_the_verdicts_of_the_detector(checkpoint, graph, images):
    run, from_graph = explained(graph, images, batch_size=2)
    _, from_checkpoint = explained(checkpoint, images, "cam", batch_size=3)
    assert run.method == "cam"
    assert [isinstance(each, ImageError) for each in from_graph] == [False] * 5 + [True]
    with Detector.load(graph, threads=1) as detector:
        expected = detector.predict(images, on_error="return")
    for one, other, prediction in zip(from_graph[:5], from_checkpoint[:5], expected[:5], strict=True):
        np.testing.assert_allclose(one.heat, other.heat, atol=1e-3 * np.abs(other.heat).max())
        assert one.prediction.score == pytest.approx(prediction.score, abs=1e-5)
        assert one.prediction.verdict == prediction.verdict
        assert one.pixels.shape == (32, 32, 3)
        assert one.border == pytest.approx(other.border, abs=1e-3)
    masses = [each.border for each in from_graph[:5] if each.border is not None]
    assert run.border.mass == pytest.approx(np.mean(masses))
    assert run.border.images == len(masses)


def test_a_graph_is_explained_without_torch(graph, images):
    code = BLOCKED.rpartition("failed = []")[0] + (
        "\nfrom edgedet import Artifact\nfrom edgedet.explain.heat import open_explainer\nfrom edgedet.explain.run import Run"
        f"\nartifact = Artifact.load({str(graph.path)!r})"
        "\nrun = Run(artifact, open_explainer(artifact, threads=1), 'cam')"
        f"\n(found,) = run.each([{str(images[0])!r}])"
        "\nprint(found.heat.shape, run.draw(found)[:4])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == r"(8, 8) b'\x89PNG'"


def test_methods_are_those_of_the_detector(checkpoint, graph, images):
    explainer = open_explainer(checkpoint, threads=1)
    assert explainer.methods == ("cam", "gradcam")
    cam, gradcam = (explained(checkpoint, images[:1], method)[1][0].heat for method in ("cam", "gradcam"))
    np.testing.assert_allclose(gradcam * cam.size, cam, rtol=1e-3, atol=1e-3 * np.abs(cam).max())
    with pytest.raises(ExplainError, match=r"no such map of edgenet and 'rollout'; there is: cam, gradcam$"):
        choose(explainer, "rollout", checkpoint)
    with pytest.raises(ExplainError, match="no method is called 'gradcma'; did you mean 'gradcam'"):
        choose(explainer, "gradcma", checkpoint)
    with pytest.raises(ExplainError, match="there is: cam; its checkpoint may have more"):
        choose(open_explainer(graph, threads=1), "gradcam", graph)


def test_a_layer_that_is_asked_for_means_grad_cam(checkpoint, graph, images):
    explainer = open_explainer(checkpoint, layer="features.0", threads=1)
    run = Run(checkpoint, explainer, "auto")
    (found,) = run.each(images[:1])
    assert (run.method, found.heat.shape) == ("gradcam", (16, 16))
    with pytest.raises(ExplainError, match="a graph has no modules"):
        open_explainer(graph, layer="features.0")


def test_a_graph_without_maps_says_how_to_have_them(checkpoint, tmp_path):
    plain = export(ExportConfig(target="cpu-x86"), checkpoint, None, tmp_path / "plain")
    with pytest.raises(ExplainError, match="this graph gives no map: export its checkpoint again with --maps"):
        choose(open_explainer(plain, threads=1), "auto", plain)


def test_residuals_and_patches_are_maps_too(images, tmp_path):
    preprocess = Preprocess(height=48, width=48, multiple=2)
    tiny = untrained(tmp_path / "tiny", DetectorSpec(name="ladeda-tiny"), preprocess, golden=2)
    explainer = open_explainer(tiny, threads=1)
    assert explainer.methods == ("patches", "gradcam", "residual")
    _, (patches,) = explained(tiny, images[:1])
    assert patches.heat.shape == (22, 22)
    assert patches.heat.mean() == pytest.approx(patches.prediction.logit, abs=1e-4)
    _, (residual,) = explained(tiny, images[:1], "residual")
    levels = residual.pixels.astype(np.float32)
    expected = np.abs(levels - levels[::2, ::2].repeat(2, 0).repeat(2, 1)).mean(2)
    np.testing.assert_allclose(residual.heat, expected, atol=1e-4)


def test_the_picture_is_a_png_with_a_caption(graph, images):
    run, found = explained(graph, images[:2], "cam")
    image = Image.open(io.BytesIO(run.draw(found[0])))
    assert (image.format, image.size[0] > 2 * 32) == ("PNG", True)
    first, second, third = run.caption(found[0])
    assert first.startswith(f"{found[0].prediction.verdict}  score {found[0].prediction.score:.3f}  threshold")
    assert second.startswith("cam 8x8: red speaks for fake, blue for real; from ")
    assert third.endswith("at the border, which is 36% of the area")


def test_numbers_beside_the_map_are_in_the_caption(graph, images):
    run, found = explained(graph, images[:1], "cam")
    given = Explanation(**{**found[0].__dict__, "numbers": {"uncertainty": 0.25}})
    assert "uncertainty 0.250" in run.caption(given)[0]


def test_outputs_are_told_apart_by_their_shape():
    outputs = {"logit": np.zeros(2), "attention": np.zeros((2, 3, 3)), "cam": np.zeros((2, 3, 3)), "uncertainty": np.zeros(2)}
    assert split(outputs) == (("cam", "attention"), ("uncertainty",))
    assert METHODS[0] == "patches"


def test_a_map_that_is_not_finite_is_an_error(graph, images):
    class Broken:
        methods = ("cam",)

        def run(self, pixels, method):
            return {"logit": np.zeros(len(pixels), np.float32), "cam": np.full((len(pixels), 2, 2), np.nan, np.float32)}

        def close(self):
            """Nothing."""

    with pytest.raises(ExplainError, match="its map by cam is not finite"):
        list(Run(graph, Broken(), "cam").each(images[:1]))
