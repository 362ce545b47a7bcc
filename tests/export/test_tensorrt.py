"""The engine stage: refused for real without a GPU, its child run for real by TensorRT-RTX, the rest on a stand-in."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from standin_gpu import BUILT, HostCuda, HostEngine

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, Built, Gate, Golden
from edgedet.errors import ArtifactError, ExportError, ParityError, RuntimeUnavailable
from edgedet.export import tensorrt as stage
from edgedet.export import tensorrt_child as child
from edgedet.export.tensorrt import EngineConfig, run
from edgedet.runtime import gpu
from edgedet.runtime.tensorrt import Opened, TensorRtRuntime

RTX = importlib.util.find_spec("tensorrt_rtx_bindings")
needs_rtx = pytest.mark.skipif(RTX is None, reason="TensorRT-RTX is not installed")
# TensorRT-RTX keeps no timings: its cache is there for compatibility, and says so.
no_timings = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)


def logits(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32).mean((1, 2)) @ np.array([0.1, 0.0, -0.1], np.float32)


@pytest.fixture
def parent(make_onnx_artifact, tmp_path) -> Artifact:
    """An ONNX artifact with golden inputs, INT8 as far as its manifest says."""
    tiny = make_onnx_artifact()
    graph = msgspec.structs.replace(tiny.manifest.graphs[0], precision="int8", opset=18, target="jetson-orin-nano")
    with artifacts.writing(tmp_path / "onnx") as draft:
        (draft.path / "model.onnx").write_bytes(tiny.graph.read_bytes())
        Golden((b"a", b"bc"), PIXELS, logits(PIXELS), logits(PIXELS)).save(draft.path / artifacts.GOLDEN)
        gates = (Gate(metric="auc", against="absolute", min_value=0.5),)
        draft.manifest = msgspec.structs.replace(tiny.manifest, graphs=(graph,), files={}, gates=gates, notes=("a note",))
    return Artifact.load(tmp_path / "onnx")


@pytest.fixture
def request_of(parent, tmp_path):
    def make(**changes: object) -> dict[str, object]:
        (tmp_path / "timing").write_bytes(b"")
        request = {
            "path": str(parent.graph),
            "precision": "int8",
            "batches": (1, 1, 16),
            "size": (8, 8),
            "workspace": 1 << 28,
            "timing": str(tmp_path / "timing"),
            "engine": str(tmp_path / "engine"),
        }
        return {**request, **changes}

    return make


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A device that is not there: its probe, builder and runtime are stand-ins; `seen` is what the builder was asked."""
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    seen = SimpleNamespace(request={}, timing=b"", answer={}, network=lambda pixels: {"logit": logits(pixels)})
    facts = {"version": "10.3.0", "strongly_typed": False, "half": False, "flags": {"FP16": True, "INT8": True}}
    facts |= {"timing_known": False, "seconds": 12.0, "engine_bytes": 6, "memory": [1, 2, 3]}

    def ask(module, request, *, about, seconds, does):
        seen.request, seen.timing = request, Path(request["timing"]).read_bytes()
        Path(request["engine"]).write_bytes(b"engine")
        Path(request["timing"]).write_bytes(b"timings of " + module.encode())
        return {**facts, "timing_known": bool(seen.timing), **seen.answer}

    def load(artifact, options):
        assert artifact.graph.read_bytes() == b"engine"
        cuda = HostCuda()
        opened = Opened(HostEngine(cuda, lambda pixels: seen.network(pixels)), None, SimpleNamespace(errors=[]))
        return TensorRtRuntime(opened, cuda, outputs=artifact.manifest.graphs[0].outputs, about=BUILT)

    monkeypatch.setattr(gpu, "probe", lambda: BUILT)
    monkeypatch.setattr(stage, "ask", ask)
    monkeypatch.setattr(stage.runtime, "load", load)
    return seen


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver")
def test_without_a_gpu_it_stops_with_one_sentence_and_leaves_nothing(parent, tmp_path):
    gpu.probe.cache_clear()
    with pytest.raises(RuntimeUnavailable, match=r"^(tensorrt is not installed|there is no NVIDIA driver)[^\n]*$"):
        run(EngineConfig(), parent, None, tmp_path / "engine")
    assert not list(tmp_path.glob("*engine*"))


def test_the_engine_is_the_child_of_its_graph_and_says_who_built_it(device, parent, tmp_path):
    made = run(EngineConfig(batches=(1, 2, 16), workspace_mb=64), parent, None, tmp_path / "engine")
    manifest, (graph,) = made.manifest, made.manifest.graphs
    assert (manifest.kind, manifest.stage, manifest.parent.digest) == ("engine", "export", parent.digest)
    assert (manifest.calibration, manifest.gates, manifest.notes) == (*inherited(parent), ("a note",))
    assert (graph.file, graph.precision, graph.target, graph.built) == ("model.engine", "int8", "jetson-orin-nano", BUILT)
    assert made.graph.read_bytes() == b"engine"
    figures = manifest.metrics["engine"]
    assert figures["built_by"]["digest"] == BUILT.digest
    assert figures["flags"] == {"FP16": True, "INT8": True}
    assert device.request["batches"] == (1, 2, 16)
    assert (device.request["size"], device.request["workspace"]) == ([8, 8], 64 << 20)


def inherited(parent: Artifact) -> tuple[object, ...]:
    return parent.manifest.calibration, parent.manifest.gates


def test_parity_is_measured_at_every_batch_size_and_the_golden_inputs_travel_on(device, parent, tmp_path):
    made = run(EngineConfig(), parent, None, tmp_path / "engine")
    assert made.manifest.metrics["parity"]["batch_sizes"] == [1, 2, 7, 16]
    assert made.manifest.metrics["parity"]["max_difference"] < 1e-5
    assert made.golden.images == parent.golden.images
    np.testing.assert_allclose(made.golden.parent_logits, parent.golden.logits)


@pytest.mark.parametrize("wrong", [1, 2, 7, 16])
def test_an_engine_that_is_wrong_at_one_batch_size_only_is_not_written(wrong, device, parent, tmp_path):
    device.network = lambda pixels: {"logit": logits(pixels) + 50 * (len(pixels) == wrong)}
    with pytest.raises(ParityError, match=r"the engine of .* on A Board: mean_relative is"):
        run(EngineConfig(), parent, None, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_timings_are_kept_for_the_next_build_with_their_digest(device, parent, tmp_path, caplog):
    first = run(EngineConfig(), parent, None, tmp_path / "first")
    assert device.timing == b""
    second = run(EngineConfig(), parent, None, tmp_path / "second")
    assert device.timing == b"timings of edgedet.export.tensorrt_child"
    before, after = (made.manifest.metrics["engine"]["timing_cache"] for made in (first, second))
    assert before["before"] is None
    assert after["before"] == before["after"]
    kept = tmp_path / "cache" / "tensorrt" / f"{BUILT.digest}.timing"
    kept.write_bytes(kept.read_bytes()[:-1])
    run(EngineConfig(), parent, None, tmp_path / "third")
    assert device.timing == b""
    assert "is damaged: building without the timings in it" in caplog.text


def test_a_refusal_names_the_node(device, parent, tmp_path):
    device.answer = {"refusal": {"node": "fc", "operator": "Gemm", "text": "no such\n thing"}}
    with pytest.raises(ExportError, match=r"model\.onnx: TensorRT 10\.3\.0 refuses the graph: node fc \(Gemm\): no such thing"):
        run(EngineConfig(), parent, None, tmp_path / "engine")


def test_fp32_around_the_int8_is_said_where_flags_cannot_change_it(device, parent, tmp_path):
    device.answer = {"version": "11.4.1", "strongly_typed": True, "flags": {}}
    made = run(EngineConfig(), parent, None, tmp_path / "engine")
    assert any("no FP16 is written into this one" in note for note in made.manifest.notes)
    device.answer |= {"half": True}
    assert run(EngineConfig(), parent, None, tmp_path / "half").manifest.notes == ("a note",)


def test_an_old_tensorrt_is_refused(device, parent, tmp_path, monkeypatch):
    old = Built.by(device="A Board", chip="Stand", compute_capability="7.2", multiprocessors=6, tensorrt="8.5.2")
    monkeypatch.setattr(gpu, "probe", lambda: old)
    with pytest.raises(RuntimeUnavailable, match=r"A Board: TensorRT 8\.5\.2 is too old: edgedet builds with 10\.3"):
        run(EngineConfig(), parent, None, tmp_path / "engine")


def test_only_a_graph_of_fixed_size_becomes_an_engine(device, make_onnx_artifact, parent, tmp_path):
    with pytest.raises(ArtifactError, match="expected a onnx"):
        run(EngineConfig(), make_onnx_artifact("checkpoint", kind="checkpoint"), None, tmp_path / "engine")
    graph = msgspec.structs.replace(parent.manifest.graphs[0], inputs={"pixels": ["batch", "height", "width", 3]})
    open_size = Artifact(parent.path, msgspec.structs.replace(parent.manifest, graphs=(graph,)), parent.digest)
    with pytest.raises(ArtifactError, match="height or width is open"):
        run(EngineConfig(), open_size, None, tmp_path / "engine")


def test_batches_are_in_order():
    with pytest.raises(ValueError, match="the least, the usual and the largest"):
        EngineConfig(batches=(1, 16, 8))


@needs_rtx
@no_timings
@pytest.mark.parametrize("version", ["10.13.3", "10.16.1.11", "11.4.0"])
def test_the_child_builds_for_real_as_a_strongly_typed_tensorrt_would(version, request_of):
    import tensorrt_rtx_bindings as trt

    request = request_of()
    facts = child.build(trt, request, version=version)
    assert "refusal" not in facts, facts
    assert (facts["strongly_typed"], facts["half"], facts["flags"]) == (True, False, {})
    assert Path(request["engine"]).stat().st_size == facts["engine_bytes"] > 1000
    assert len(facts["memory"]) == 3
    assert Path(request["timing"]).stat().st_size > 0
    again = child.build(trt, request, version=version)
    assert again["timing_known"]


@needs_rtx
@no_timings
def test_full_precision_is_built_without_tf32(request_of):
    import tensorrt_rtx_bindings as trt

    assert child.build(trt, request_of(precision="fp32"), version="11.4")["flags"] == {"TF32": False}


@needs_rtx
@no_timings
def test_a_graph_with_half_in_it_is_typed_by_itself_under_an_older_tensorrt_too(request_of, tmp_path):
    import onnx
    import tensorrt_rtx_bindings as trt

    model = onnx.load(request_of()["path"])
    helper, kinds = onnx.helper, onnx.TensorProto
    model.graph.node[0].attribute[0].i = kinds.FLOAT16
    model.graph.node.insert(1, helper.make_node("Cast", [model.graph.node[0].output[0]], ["single"], to=kinds.FLOAT))
    model.graph.node[2].input[0] = "single"
    onnx.save(model, tmp_path / "half.onnx")
    facts = child.build(trt, request_of(path=str(tmp_path / "half.onnx")), version="10.3.0")
    assert (facts["strongly_typed"], facts["half"], facts["flags"]) == (True, True, {})


@needs_rtx
def test_what_the_child_cannot_parse_is_a_refusal(request_of, tmp_path):
    import tensorrt_rtx_bindings as trt

    (tmp_path / "text.onnx").write_text("not a graph")
    assert child.build(trt, request_of(path=str(tmp_path / "text.onnx")), version="11.4")["refusal"]["text"]
