"""The self-test of an installed bundle. ONNX Runtime stands where TensorRT would, and every result says so."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from standin_gpu import BUILT, HostCuda, HostEngine
from tiny_bundle import TARGET, exported, labelled

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, Golden
from edgedet.bench import power
from edgedet.errors import ArtifactError, DigestMismatch
from edgedet.export import pack, selftest
from edgedet.runtime.tensorrt import Opened, TensorRtRuntime
from edgedet.target import resolve


@pytest.fixture
def artifact(make_onnx_artifact, tmp_path) -> Artifact:
    return exported(make_onnx_artifact(weights=(0.1, -0.05, -0.05)), tmp_path / "exported")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Unpack a bundle as the installer does; no sensors but those that a test adds."""
    monkeypatch.setattr(power, "find", lambda: None)

    def make(artifact: Artifact) -> Path:
        made = pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz", sample=labelled(tmp_path / "data"))
        with tarfile.open(made.path) as tar:
            tar.extractall(tmp_path / "there", filter="data")
        return tmp_path / "there"

    return make


def run(folder: Path, **more) -> selftest.SelfTest:
    return selftest.run(folder, **{"runtime": "onnxruntime", "seconds": 0.05, **more})


def disagreeing(artifact: Artifact, out: Path, **shift: float) -> Artifact:
    """The same artifact, its golden logits moved by so much."""
    golden = artifact.golden
    moved = {name: getattr(golden, name) + np.float32(shift.get(name, 0)) for name in ("parent_logits", "logits")}
    with artifacts.writing(out) as draft:
        for name in artifact.manifest.files:
            (draft.path / name).write_bytes((artifact.path / name).read_bytes())
        Golden(golden.images, golden.pixels, **moved).save(draft.path / "golden.npz")
        draft.manifest = artifact.manifest
    return Artifact.load(out)


def test_everything_is_measured_and_kept(install, artifact):
    folder = install(artifact)
    found = run(folder)
    assert found.failed is None
    assert selftest.read((folder / selftest.RESULT).read_bytes()) == found
    assert (found.kind, found.artifact, found.engine, found.target) == ("measured", artifact.digest, None, TARGET)
    assert (found.runtime, found.intended, found.described["runtime"]) == ("onnxruntime", "tensorrt", "onnxruntime")
    assert found.parity is not None
    assert (found.parity["batch_sizes"], found.parity["n"], found.parity["flips"]) == ([1, 2, 7, 16], 16, 0)
    assert found.parity["against_export"]["max_difference"] <= found.parity["max_difference"] + 1e-5
    assert found.sample is not None
    assert found.sample["balanced_accuracy"]["value"] is not None
    assert found.sample["against_export"]["max_difference"] < 1e-6
    assert found.bench is not None
    assert found.bench.latency.p50_ms > 0
    assert found.bench.best_throughput.images_per_second > 0
    assert found.bench.memory.peak_bytes > 0
    assert found.power is None
    assert any("onnxruntime stood in for tensorrt: these are no figures of the target" in note for note in found.notes)
    assert any("this machine is no Jetson Orin Nano" in note for note in found.notes)
    assert any("no power figures" in note for note in found.notes)


def test_power_is_measured_above_rest_where_there_are_sensors(install, artifact, monkeypatch):
    class Board:
        name, scope = "tegrastats", "of the module"

        def stream(self, stop):
            while not stop.wait(0.01):
                yield power.rails_of("VDD_IN 5000mW/5000mW VDD_SOC 1000mW/1000mW")

    folder = install(artifact)
    monkeypatch.setattr(power, "find", Board)
    monkeypatch.setattr(power, "_SETTLE", 0.0)
    found = run(folder).power
    assert found is not None
    assert (found.rails, found.idle_mw) == (("VDD_IN",), 5000)
    assert found.loads[0].batch == 1
    assert all(load.above_idle_mw == 0 for load in found.loads)


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver")
def test_without_tensorrt_it_fails_with_one_sentence(install, artifact):
    found = run(install(artifact), runtime=None)
    assert found.failed is not None
    assert found.failed.startswith(("tensorrt is not installed", "there is no NVIDIA driver"))
    assert (found.runtime, found.parity, found.engine) == ("tensorrt", None, None)


@pytest.fixture
def board(monkeypatch, tmp_path):
    """A GPU that is not there: probe, builder and runtime are stand-ins, and NumPy computes what the engine would."""
    from edgedet.export import tensorrt
    from edgedet.runtime import base, gpu

    def ask(module, request, **_):
        Path(request["engine"]).write_bytes(b"engine")
        facts = {"version": "10.3.0", "strongly_typed": False, "half": False, "flags": {}, "timing_known": False}
        return {**facts, "seconds": 12.0, "engine_bytes": 6, "memory": [1, 2, 3]}

    def network(pixels):
        return {"logit": pixels.astype(np.float32).mean((1, 2)) @ np.array([0.1, -0.05, -0.05], np.float32)}

    def load(loaded, options):
        cuda = HostCuda()
        opened = Opened(HostEngine(cuda, network), None, SimpleNamespace(errors=[]))
        return TensorRtRuntime(opened, cuda, outputs=loaded.manifest.graphs[0].outputs, about=BUILT)

    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(base, "missing", lambda _: "")
    monkeypatch.setattr(gpu, "probe", lambda: BUILT)
    monkeypatch.setattr(tensorrt, "ask", ask)
    monkeypatch.setattr(tensorrt.runtime, "load", load)


def test_where_tensorrt_runs_the_engine_is_built_and_is_what_is_tested(install, artifact, board):
    folder = install(artifact)
    found = run(folder, runtime=None)
    assert found.failed is None
    engine = Artifact.load(folder / selftest.ENGINE)
    assert (engine.manifest.kind, engine.manifest.parent.digest) == ("engine", artifact.digest)
    assert (found.engine, found.artifact, found.bench.digest) == (engine.digest, artifact.digest, engine.digest)
    assert (found.runtime, found.described["largest_batch"], found.build["seconds"]) == ("tensorrt", 16, 12.0)
    assert found.parity["batch_sizes"] == [1, 2, 7, 16]
    assert not any("stood in" in note for note in found.notes)
    assert not list(folder.glob(".engine*"))


def test_a_device_that_disagrees_with_the_parent_fails_and_is_not_timed(install, artifact, tmp_path):
    folder = install(disagreeing(artifact, tmp_path / "wrong", parent_logits=0.5))
    found = run(folder)
    assert found.failed is not None
    assert "max_relative is" in found.failed
    assert "tiny on onnxruntime" in found.failed
    assert (found.parity is not None, found.bench) == (True, None)
    assert selftest.read((folder / selftest.RESULT).read_bytes()).failed == found.failed


def test_a_device_that_disagrees_on_the_sample_fails(install, artifact, monkeypatch):
    folder = install(artifact)
    given = selftest.bundles.load(folder / "edgedet-bundle")
    moved = msgspec.structs.replace(given.sample, logits=tuple(logit + 1 for logit in given.sample.logits))
    monkeypatch.setattr(selftest.bundles, "load", lambda _: msgspec.structs.replace(given, sample=moved))
    found = run(folder)
    assert found.failed is not None
    assert "on the labelled sample" in found.failed
    assert found.sample["balanced_accuracy"]["value"] is not None


def test_the_gate_is_the_one_that_the_graph_was_exported_under(install, artifact, tmp_path):
    with artifacts.writing(tmp_path / "gated") as draft:
        for name in artifact.manifest.files:
            (draft.path / name).write_bytes((artifact.path / name).read_bytes())
        draft.manifest = msgspec.structs.replace(artifact.manifest, config={"parity": {"mean_relative": 1e-9}})
    failed = run(install(Artifact.load(tmp_path / "gated"))).failed
    assert failed is not None
    assert "the parity gate allows 1e-09" in failed


def test_a_bundle_that_was_tampered_with_is_not_tested(install, artifact):
    folder = install(artifact)
    (folder / "edgedet-bundle/install.sh").write_text("other")
    with pytest.raises(DigestMismatch, match=r"install\.sh was changed"):
        run(folder)
    assert not (folder / selftest.RESULT).exists()
    with pytest.raises(ArtifactError, match="no bundle can be read there"):
        run(folder / "elsewhere")


def test_what_is_no_result_is_refused():
    with pytest.raises(ArtifactError, match="not the result of a self-test"):
        selftest.read(b'{"schema": 1}')


ONLY = """
import sys

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxruntime", "tensorrt", "rich", "typer", "pandas", "scipy", "openvino"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Only())
"""


def device(code: str) -> str:
    """What `code` prints where only numpy, Pillow and msgspec are."""
    done = subprocess.run([sys.executable, "-c", ONLY + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parity_needs_numpy_only(artifact):
    code = f"""
from edgedet.artifact import Artifact
from edgedet.export import parity
import numpy as np

artifact = Artifact.load({str(artifact.path)!r})
golden = artifact.golden
weights = np.array([0.1, -0.05, -0.05], np.float32)
run = lambda pixels: pixels.astype(np.float32).mean(axis=(1, 2)) @ weights
print(parity.measure(run, golden.pixels, golden.parent_logits, artifact.manifest.calibration).figures)
"""
    assert "'flips': 0, 'n': 16, 'batch_sizes': [1, 2, 7, 16]" in device(code)


def test_what_the_device_runs_imports_without_onnx():
    code = ONLY.replace('"rich", "typer", ', "") + """
import edgedet.cli.device, edgedet.export.deploy, edgedet.export.selftest, edgedet.export.tensorrt, edgedet.runtime.tensorrt
"""
    subprocess.run([sys.executable, "-c", code], check=True)
