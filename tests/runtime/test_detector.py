import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edgedet import Detector, Preprocess
from edgedet.artifact import Calibration
from edgedet.errors import ArtifactError, DigestMismatch, ImageError, RuntimeUnavailable


def colour(red: int, green: int = 0, blue: int = 0, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (red, green, blue))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def detector(make_onnx_artifact):
    with Detector.load(make_onnx_artifact(), threads=1) as loaded:
        yield loaded


def test_one_image_gives_a_score_a_verdict_and_a_margin(detector):
    (prediction,) = detector.predict(colour(30, 0, 10))
    assert prediction.logit == pytest.approx(0.1 * 30 - 0.1 * 10)
    assert prediction.score == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert (prediction.verdict, prediction.threshold, prediction.error) == ("fake", 0.5, None)
    assert prediction.margin == pytest.approx(prediction.score - 0.5)


def test_every_source_of_the_same_image_gives_the_same_prediction(detector, tmp_path):
    image = colour(60, 20, 90)
    path = tmp_path / "image.png"
    path.write_bytes(png(image))
    expected = detector.predict(image)
    for source in (path, str(path), png(image), np.asarray(image), [image], np.asarray(image)[None], iter([path])):
        assert detector.predict(source) == expected


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_order_is_kept_whatever_the_batch(make_onnx_artifact, batch_size):
    reds = [(37 * number) % 256 for number in range(70)]
    with Detector.load(make_onnx_artifact(), threads=1, batch_size=batch_size) as detector:
        logits = [prediction.logit for prediction in detector.predict(png(colour(red)) for red in reds)]
    assert logits == pytest.approx([0.1 * red for red in reds])


def test_native_images_of_mixed_sizes_run_in_batches_of_their_own(make_onnx_artifact):
    artifact = make_onnx_artifact(preprocess=Preprocess(geometry="native"))
    sizes = [(8, 8), (8, 8), (12, 5), (3, 9), (8, 8)]
    with Detector.load(artifact, threads=1) as detector:
        predictions = detector.predict([colour(10 * n, size=size) for n, size in enumerate(sizes)])
    assert [prediction.logit for prediction in predictions] == pytest.approx([0, 1, 2, 3, 4])


def test_an_unreadable_image_is_raised_or_returned_in_its_place(detector, tmp_path):
    images = [png(colour(50)), b"not an image", tmp_path / "absent.jpg", png(colour(0, 0, 50))]
    with pytest.raises(ImageError, match="not an image in a known format"):
        detector.predict(images)
    predictions = detector.predict(images, on_error="return")
    assert [prediction.verdict for prediction in predictions] == ["fake", None, None, "real"]
    assert "no such file" in predictions[2].error
    assert predictions[1].score is predictions[1].logit is predictions[1].margin is None


def test_calibration_and_operating_point_decide_the_verdict(make_onnx_artifact):
    calibration = Calibration(temperature=2.0, bias=-1.0, thresholds={"half": 0.5, "fpr1": 0.9})
    with Detector.load(make_onnx_artifact(calibration=calibration), threads=1) as detector:
        (default,) = detector.predict(colour(30))
        (strict,) = detector.predict(colour(30), operating_point="fpr1")
        assert default.score == strict.score == pytest.approx(1 / (1 + np.exp(-(3.0 - 1.0) / 2.0)))
        assert (default.verdict, strict.verdict, strict.threshold) == ("fake", "real", 0.9)
        with pytest.raises(ArtifactError, match="did you mean 'fpr1'"):
            detector.predict(colour(30), operating_point="fpr01")


def test_logits_of_pixels_are_those_of_the_runtime(detector):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    mean = pixels.reshape(70, -1, 3).mean(axis=1)
    logits = detector.logits(pixels)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, 0.1 * (mean[:, 0] - mean[:, 2]), atol=1e-4)
    assert detector.logits(pixels[:0]).shape == (0,)


@pytest.mark.parametrize("pixels", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)])
def test_pixels_of_another_form_are_refused(detector, pixels):
    with pytest.raises(ImageError, match="expected uint8 pixels of shape"):
        detector.logits(pixels)


def test_no_images_give_no_predictions(detector):
    assert detector.predict([]) == []


def test_stream_gives_the_first_prediction_before_the_last_image_is_asked_for(detector):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield colour(40)

    predictions = detector.stream(endless())
    assert next(predictions).verdict == "fake"
    assert len(asked) < 500
    predictions.close()


def test_a_logit_that_is_not_finite_is_an_error(make_onnx_artifact):
    with Detector.load(make_onnx_artifact(weights=(float("nan"), 0, 0)), threads=1) as detector, pytest.raises(
        ArtifactError, match="not finite"
    ):
        detector.predict(colour(1))


def test_an_edited_graph_is_refused_by_its_digest(make_onnx_artifact):
    artifact = make_onnx_artifact()
    graph = artifact.path / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with pytest.raises(DigestMismatch):
        Detector.load(artifact.path)


def test_a_batch_size_of_zero_is_refused(make_onnx_artifact):
    with pytest.raises(RuntimeUnavailable, match="batch_size must be at least 1"):
        Detector.load(make_onnx_artifact(), batch_size=0)


def test_importing_the_detector_loads_no_framework():
    code = (
        "import sys; from edgedet import Detector; Detector.load; "
        "print(sorted({'torch', 'onnxruntime', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
