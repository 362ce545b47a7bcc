"""The HTTP service: the same answers as the detector, and a clear refusal for everything else."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from PIL import Image

from edgedet.errors import ArtifactError
from edgedet.runtime.detector import Detector
from edgedet.serve import app
from edgedet.serve.app import ServeConfig, create_app


def encoded(value: int = 90, side: int = 24, form: str = "PNG") -> bytes:
    rng, buffer = np.random.default_rng(value), io.BytesIO()
    Image.fromarray(rng.integers(0, 1 + value, (side, side, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def artifact(make_onnx_artifact):
    return make_onnx_artifact()


@pytest.fixture
def client(artifact):
    config = ServeConfig(max_bytes=100_000, max_pixels=10_000)
    with TestClient(create_app(Detector.load(artifact, threads=1), config)) as client:
        yield client


def test_an_image_gets_what_the_detector_says_of_it(client, artifact):
    with Detector.load(artifact, threads=1) as detector:
        expected = detector.predict(encoded())[0]
    for answer in (client.post("/v1/detect", content=encoded()), client.post("/v1/detect", files={"image": encoded()})):
        assert answer.status_code == 200
        said = answer.json()
        assert said["verdict"] == expected.verdict
        assert said["artifact"] == artifact.digest
        for name in ("score", "margin", "threshold", "logit"):
            assert said[name] == pytest.approx(getattr(expected, name), abs=1e-6)


def test_many_at_once_each_get_their_own(client, artifact):
    images = [encoded(value) for value in range(5, 245, 6)]
    with Detector.load(artifact, threads=1) as detector:
        expected = [each.logit for each in detector.predict(images)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda data: client.post("/v1/detect", content=data).json()["logit"], images))
    np.testing.assert_allclose(answers, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "the body is empty"),
        (b"no image at all", 400, "not an image"),
        (encoded()[:60], 400, ""),
        (b"x" * 200_000, 413, "more than 100,000 bytes"),
        (encoded(side=120), 413, "more than 10,000 pixels"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused(client, body, status, words):
    answer = client.post("/v1/detect", content=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_body_that_does_not_say_its_length_is_still_limited(client):
    answer = client.post("/v1/detect", content=(b"x" * 10_000 for _ in range(50)))
    assert answer.status_code == 413


def test_a_form_without_the_image_is_refused(client):
    answer = client.post("/v1/detect", files={"picture": encoded()})
    assert (answer.status_code, answer.json()["error"]) == (400, "the form has no file called `image`")


def test_every_refusal_is_json_of_one_kind_and_counted(client):
    form = {"content-type": "multipart/form-data; boundary=end"}
    for answer, status, words in (
        (client.post("/v1/detect", params={"map": "maybe"}, content=encoded()), 422, "map: Input should be a valid boolean"),
        (client.post("/v1/detect", content=b"--other\r\n", headers=form), 400, "Invalid multipart data."),
        (client.post("/v1/detect", files=[("image", encoded()), ("image", encoded())]), 400, "Too many files"),
        (client.get("/v1/detect"), 405, "Method Not Allowed"),
        (client.get("/nothing"), 404, "Not Found"),
    ):
        assert answer.status_code == status
        assert words in answer.json()["error"]
        assert list(answer.json()) == ["error"]
    assert 'edgedet_requests_total{outcome="400"} 2.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("failure", "words"),
    [(ArtifactError("a logit that is not finite"), "a logit that is not finite"), (MemoryError("oh"), "the model failed")],
)
def test_a_model_that_fails_is_a_500_that_says_so(artifact, failure, words):
    detector = Detector.load(artifact, threads=1)
    detector.runtime = Failing(detector.runtime, failure)
    with TestClient(create_app(detector), raise_server_exceptions=False) as client:
        for answer in (client.post("/v1/detect", content=encoded()), client.get("/healthz")):
            assert answer.status_code == 500
            assert words in answer.json()["error"]
        assert 'edgedet_requests_total{outcome="500"} 2.0' in client.get("/metrics").text


def test_images_that_wait_to_be_decoded_are_no_more_than_may_wait(artifact, monkeypatch):
    """Decoding may be slower than the model, whose queue is empty then."""
    begun, go_on, decoded = threading.Event(), threading.Event(), app._Service._decoded

    def slow(service, data):
        begun.set()
        assert go_on.wait(60)
        return decoded(service, data)

    monkeypatch.setattr(app._Service, "_decoded", slow)
    served = create_app(Detector.load(artifact, threads=1), ServeConfig(queued=1))
    with TestClient(served) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/detect", content=encoded())
        assert begun.wait(60)
        second = client.post("/v1/detect", content=encoded())
        go_on.set()
        assert first.result().status_code == 200
    assert (second.status_code, second.headers["Retry-After"]) == (503, "1")
    assert "wait to be decoded already" in second.json()["error"]


def test_a_caller_who_hangs_up_is_no_failure_of_the_model(client):
    came = iter([{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}])

    async def call():
        async def receive():
            return next(came)

        async def send(_):
            pass

        scope = {"type": "http", "method": "POST", "path": "/v1/detect", "query_string": b"", "headers": []}
        await client.app(scope, receive, send)

    client.portal.call(call)
    assert 'edgedet_requests_total{outcome="400"} 1.0' in client.get("/metrics").text


class Failing:
    """A runtime that raises."""

    def __init__(self, runtime, failure):
        self.close, self.failure = runtime.close, failure

    def run(self, pixels):
        raise self.failure


def test_an_operating_point_is_taken_by_name(client, artifact):
    known = artifact.manifest.calibration.thresholds
    for name, threshold in known.items():
        assert client.post("/v1/detect", params={"operating_point": name}, content=encoded()).json()["threshold"] == threshold
    answer = client.post("/v1/detect", params={"operating_point": "fpr2"}, content=encoded())
    assert answer.status_code == 422
    assert "no operating point 'fpr2'; there are: half" in answer.json()["error"]


def test_health_metrics_and_description(client, artifact):
    assert client.get("/healthz").json() == {"status": "ok", "artifact": artifact.digest}
    client.post("/v1/detect", content=encoded())
    client.post("/v1/detect", content=b"no image")
    page = client.get("/metrics").text
    assert 'edgedet_requests_total{outcome="200"} 1.0' in page
    assert 'edgedet_requests_total{outcome="400"} 1.0' in page
    assert "edgedet_seconds_bucket" in page
    assert client.get("/v1/model").json()["artifact"] == artifact.digest
    assert "/v1/detect" in client.get("/openapi.json").json()["paths"]


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
