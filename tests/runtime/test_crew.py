import threading

import numpy as np
import pytest
from PIL import Image

from edgedet import Detector
from edgedet.errors import ImageError, RuntimeUnavailable
from edgedet.preprocess import Preprocess
from edgedet.runtime import crew


def test_order_is_kept_and_every_batch_runs_on_one_thread():
    ran: list[tuple[str, int]] = []

    def run(decoded):
        items = list(decoded)
        ran.append((threading.current_thread().name, len(items)))
        return [item + 1 for item in items]

    found = crew.spread(lambda item: 10 * item, run, iter(range(103)), workers=3, size=8, one_decodes=False)
    assert list(found) == [10 * item + 1 for item in range(103)]
    assert sorted(size for _, size in ran) == [7] + [8] * 12


@pytest.mark.parametrize("alone", [True, False])
def test_thumbnails_are_decoded_by_one_thread_at_a_time(alone):
    inside, most, lock, together = 0, 0, threading.Lock(), threading.Event()

    def decode(item):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if inside > 1:
                together.set()
        together.wait(0.02)  # long enough for another one to come in, if it may
        with lock:
            inside -= 1
        return item

    found = crew.spread(decode, list, range(40), workers=4, size=2, one_decodes=alone)
    assert list(found) == list(range(40))
    assert (most == 1) is alone


def test_work_is_shared_out_before_it_is_batched():
    assert crew.batch_of(None, 32, 2) == 32
    assert crew.batch_of(10_000, 32, 2) == 32
    assert crew.batch_of(64, 32, 2) == 8
    assert crew.batch_of(3, 32, 8) == 1


@pytest.fixture
def files(tmp_path):
    paths = []
    for number in range(70):
        paths.append(tmp_path / f"{number:02}.png")
        Image.new("RGB", (8, 8 if number % 9 else 10), (number, 0, 0)).save(paths[-1])
    paths[33].write_bytes(b"no image")
    return paths


@pytest.mark.parametrize("geometry", ["resize_squash", "native"])
def test_a_crew_gives_what_one_thread_gives(make_onnx_artifact, files, geometry):
    made = make_onnx_artifact(preprocess=Preprocess(height=8, width=8, geometry=geometry))
    with Detector.load(made, threads=1) as alone, Detector.load(made, workers=3, batch_size=4) as many:
        expected = alone.predict(files, on_error="return")
        assert many.predict(files, on_error="return") == expected
        assert list(many.stream(iter(files), on_error="return")) == expected
        assert [each.error is None for each in expected].count(False) == 1
        with pytest.raises(ImageError, match=r"33\.png"):
            many.predict(files)
        np.testing.assert_array_equal([each.logit for each in many.predict(files[:3])], [each.logit for each in expected[:3]])
        assert many.runtime.describe()["threads"] == 1


def test_a_crew_reads_only_a_little_ahead(make_onnx_artifact):
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield Image.new("RGB", (8, 8), (asked % 200, 0, 0))

    with Detector.load(make_onnx_artifact(), workers=2, batch_size=4) as detector:
        predictions = detector.stream(endless())
        next(predictions)
        assert asked <= 64 + 6 * 4
        predictions.close()


def test_a_runtime_that_cannot_be_shared_is_refused(make_onnx_artifact):
    pytest.importorskip("openvino")
    made = make_onnx_artifact()
    with pytest.raises(RuntimeUnavailable, match="openvino runtime cannot be shared by 2 workers"):
        Detector.load(made, runtime="openvino", workers=2)
    with pytest.raises(RuntimeUnavailable, match="workers must be at least 1, got 0"):
        Detector.load(made, workers=0)
