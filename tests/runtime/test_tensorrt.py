"""The logic of the TensorRT runtime on a stand-in for the device (`standin_gpu`), and its refusals for real."""

import importlib.util
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from standin_gpu import BUILT, BrokenCuda, HostCuda, HostEngine

from edgedet.artifact import Artifact, Built
from edgedet.errors import ArtifactError, RuntimeUnavailable
from edgedet.runtime import base, gpu
from edgedet.runtime.base import Options
from edgedet.runtime.tensorrt import Opened, Port, TensorRtRuntime, load

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)


def network(pixels: np.ndarray) -> dict[str, np.ndarray]:
    means = pixels.astype(np.float32).mean((1, 2))
    return {"logit": means @ np.array([0.1, 0.0, -0.1], np.float32), "map": pixels.astype(np.float32).mean(3)}


def logits_only(pixels: np.ndarray) -> dict[str, np.ndarray]:
    return {"logit": network(pixels)["logit"]}


def runtime(cuda: HostCuda, engine: HostEngine, outputs: tuple[str, ...] = ("logit",)) -> TensorRtRuntime:
    return TensorRtRuntime(Opened(engine, None, SimpleNamespace(errors=["a reason"])), cuda, outputs=outputs, about=BUILT)


@pytest.mark.parametrize("batch", [1, 2, 7, 16, 17, 40])
def test_every_batch_gives_its_logits_larger_ones_in_parts(batch):
    cuda = HostCuda()
    loaded = runtime(cuda, HostEngine(cuda, logits_only, largest=16))
    for _ in range(3):  # enqueued, recorded, launched again
        np.testing.assert_allclose(loaded.run(PIXELS[:batch])["logit"], logits_only(PIXELS[:batch])["logit"], rtol=1e-6)


def test_outputs_come_in_the_order_of_the_manifest_whatever_the_engine_has():
    cuda = HostCuda()
    engine = HostEngine(cuda, network, outputs={"map": (8, 8), "logit": ()})
    found = runtime(cuda, engine, ("logit", "map")).run(PIXELS[:3])
    assert list(found) == ["logit", "map"]
    np.testing.assert_allclose(found["map"], PIXELS[:3].mean(3), rtol=1e-6)


def test_a_batch_that_comes_again_is_recorded_once_and_forgotten_when_another_comes():
    cuda = HostCuda()
    loaded = runtime(cuda, HostEngine(cuda, logits_only))
    for size in (1, 1, 1, 2, 1):
        loaded.run(PIXELS[:size])
    assert [word for word in cuda.said if word != "synchronize"] == ["record", "launch", "launch", "forget"]
    assert cuda.said.count("synchronize") == 5


def test_an_earlier_answer_is_not_overwritten_by_the_next():
    cuda = HostCuda()
    loaded = runtime(cuda, HostEngine(cuda, logits_only))
    first = loaded.run(PIXELS[:1])["logit"]
    loaded.run(PIXELS[1:2])
    np.testing.assert_allclose(first, logits_only(PIXELS[:1])["logit"])


def test_an_engine_that_cannot_be_recorded_runs_without_and_says_so():
    cuda = HostCuda()
    loaded = runtime(cuda, HostEngine(cuda, logits_only, recordable=False))
    assert loaded.describe()["cuda_graph"]
    for _ in range(3):
        np.testing.assert_allclose(loaded.run(PIXELS[:2])["logit"], logits_only(PIXELS[:2])["logit"])
    assert not loaded.describe()["cuda_graph"]
    assert not cuda.graphs
    assert cuda.said.count("record") == 1


def test_everything_is_given_back():
    cuda = HostCuda()
    loaded = runtime(cuda, HostEngine(cuda, logits_only))
    loaded.run(PIXELS[:1])
    loaded.run(PIXELS[:1])
    assert cuda.held
    loaded.close()
    assert not cuda.held
    assert not cuda.graphs


@pytest.mark.parametrize("room", [0, 1, 2, 3, 4])
def test_a_device_without_memory_leaves_nothing_behind(room):
    cuda = BrokenCuda(room)
    with pytest.raises(RuntimeUnavailable, match="out of memory"):
        runtime(cuda, HostEngine(cuda, logits_only))
    assert not cuda.held


@pytest.mark.parametrize("pixels", [PIXELS[:1, :4], PIXELS[:1].astype(np.float32), PIXELS[:0]])
def test_other_pixels_are_refused(pixels):
    cuda = HostCuda()
    with pytest.raises(ArtifactError, match=r"takes uint8 pixels of shape \(batch, 8, 8, 3\), got"):
        runtime(cuda, HostEngine(cuda, logits_only)).run(pixels)


def test_an_engine_that_fails_says_why():
    cuda = HostCuda()
    engine = HostEngine(cuda, logits_only)
    loaded = runtime(cuda, engine)
    engine.execute_async_v3 = lambda stream: False
    with pytest.raises(RuntimeUnavailable, match="cannot run the engine: a reason"):
        loaded.run(PIXELS[:1])
    engine.set_input_shape = lambda name, shape: False
    with pytest.raises(ArtifactError, match="refuses a batch of 2"):
        loaded.run(PIXELS[:2])


@pytest.mark.parametrize(
    ("engine", "outputs", "message"),
    [
        ({"outputs": {"score": ()}}, ("logit",), "to logit, got one from pixels to score"),
        ({"outputs": {"map": (), "logit": ()}}, ("map", "logit"), "to map, logit"),
        ({"kinds": ("FLOAT", "FLOAT")}, ("logit",), "expected pixels of UINT8"),
        ({"kinds": ("UINT8", "HALF")}, ("logit",), "expected logit of FLOAT"),
        ({"outputs": {"logit": (-1,)}}, ("logit",), "nothing else open"),
    ],
)
def test_an_engine_with_another_interface_is_refused(engine, outputs, message):
    cuda = HostCuda()
    with pytest.raises(ArtifactError, match=message):
        runtime(cuda, HostEngine(cuda, network, **engine), outputs)


def test_buffers_hold_the_largest_batch():
    assert Port("pixels", (224, 224, 3), np.uint8).nbytes(16) == 16 * 224 * 224 * 3
    assert Port("logit", (), np.float32).nbytes(16) == 64
    assert Port("map", (7, 7), np.float32).nbytes(2) == 2 * 49 * 4
    cuda = HostCuda()
    runtime(cuda, HostEngine(cuda, logits_only, largest=5))
    sizes = sorted(len(buffer) for buffer in cuda.held.values())
    assert sizes == [1, 20, 20, 5 * 192, 5 * 192]  # the stream; the logits and the pixels, on the host and on the device


def test_the_table_knows_it(make_onnx_artifact, monkeypatch):
    artifact = make_onnx_artifact(kind="engine")
    assert base.choose(artifact) == "tensorrt"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"tensorrt runtime cannot run here: tensorrt is not installed: on a Jetson"):
        base.load(artifact)


OTHER = Built.by(device="A Board", chip="Stand", compute_capability="8.7", multiprocessors=8, tensorrt="10.16.1")


@pytest.mark.parametrize("built", [None, OTHER])
def test_an_engine_of_another_device_or_version_is_not_tried(make_onnx_artifact, monkeypatch, built):
    monkeypatch.setattr(gpu, "probe", lambda: BUILT)
    artifact = make_onnx_artifact(kind="engine")
    graph = msgspec.structs.replace(artifact.manifest.graphs[0], built=built)
    manifest = msgspec.structs.replace(artifact.manifest, graphs=(graph,))
    with pytest.raises(RuntimeUnavailable, match=r"this is A Board .* with TensorRT 10\.3\.0: engines run nowhere else"):
        load(Artifact(artifact.path, manifest, artifact.digest), Options(threads=1))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed")
def test_what_is_no_engine_is_refused_by_the_real_library(make_onnx_artifact, monkeypatch):
    bindings = importlib.import_module("tensorrt_rtx_bindings")
    monkeypatch.setattr(gpu, "probe", lambda: BUILT)
    monkeypatch.setattr(gpu, "import_tensorrt", lambda: bindings)
    monkeypatch.setattr("edgedet.runtime.tensorrt.Cuda", HostCuda)
    artifact = make_onnx_artifact(kind="engine")
    graph = msgspec.structs.replace(artifact.manifest.graphs[0], built=BUILT)
    manifest = msgspec.structs.replace(artifact.manifest, graphs=(graph,))
    with pytest.raises(ArtifactError, match=r"model\.onnx: TensorRT 10\.3\.0 does not accept it: .*Error Code"):
        load(Artifact(artifact.path, manifest, artifact.digest), Options(threads=1))
