"""A folder as a few commands leave it: a teacher and its child, result lines, an evaluation, an audit, raw samples."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import red_fakes
import tiny_onnx

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact
from edgedet.bench import result, samples
from edgedet.bench.probe import Device
from edgedet.bench.result import BenchRow, Point
from edgedet.bench.rows import accuracy_of
from edgedet.bench.scenarios import Comparison
from edgedet.bench.statistics import Ratio, Samples, latency
from edgedet.data.audit import Audit
from edgedet.evaluate import assess, slices
from edgedet.report.build import build
from edgedet.report.content import Report

DEVICE = Device(name="A <CPU> & more", system="Linux", cores=2, flags=("avx2",))
PUBLISHED = BenchRow(
    name="resnet50",
    kind="published",
    source="somebody; https://example.org/figures",
    device=Device(name="NVIDIA GeForce RTX 3090"),
    precision="amp",
    throughput=(Point(batch=1024, images_per_second=3729.86),),
)


def calls(median_ms: float, seed: int) -> Samples:
    """Two hundred timed calls in ten rounds."""
    drawn = np.random.default_rng(seed).lognormal(0, 0.1, 200) * median_ms * 1e6
    return Samples(drawn.astype(np.int64), np.repeat(np.arange(10), 20))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    shutil.copytree(whole, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="session")
def report(whole: Path) -> Report:
    return build(whole)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    above = tmp_path_factory.mktemp("report")
    root = above / "results"
    data = red_fakes.make_index(above / "data", 30)

    def assessed(name: str, weights: tuple[float, float, float], parent: Artifact | None) -> Artifact:
        made = tiny_onnx.make(above, f"raw-{name}", weights=weights)
        with artifacts.writing(root / "line" / name) as draft:
            shutil.copyfile(made.graph, draft.path / "model.onnx")
            lineage = parent.lineage_for_child() if parent else ()
            draft.manifest = msgspec.structs.replace(made.manifest, lineage=lineage, files={}, notes=(f"note of {name}",))
            draft.manifest = assess.assess(draft, data, parent=parent)
        return Artifact.load(root / "line" / name)

    teacher = assessed("teacher", (0.1, -0.05, -0.05), None)
    child = assessed("child", (0.1, -0.1, 0.05), teacher)
    timed = {"child": calls(1.0, 1), "teacher": calls(4.0, 2)}
    model = Comparison("child", timed, {})
    digests = {"child": child.digest, "teacher": teacher.digest}
    rows = [
        BenchRow(
            name=name,
            kind="measured",
            date="2026-01-02T03:04:05+00:00",
            device=DEVICE,
            runtime="onnxruntime",
            runtime_version="1.31",
            precision="fp32",
            img_size=(8, 8),
            threads=1,
            weights="trained",
            digest=digests[name],
            size_bytes=10_000 if name == "child" else 9_000,
            latency=latency(timed[name]),
            speedup=Ratio(baseline="child", value=1.0, low=1.0, high=1.0, rounds=10),
            harness_ms=0.0005,
            accuracy=accuracy_of(Artifact.load(root / "line" / name).manifest.metrics),
        )
        for name in ("child", "teacher")
    ]
    result.append(root / "cpu.jsonl", [rows[0], rows[0], PUBLISHED, rows[1]])
    samples.save(root / "samples.npz", model, model, digests, date=rows[0].date)
    found = slices.evaluate_all(child, data, ["clean", "jpeg-90", "jpeg-50", "web", "resize-0.5-bilinear"], n_boot=20)
    record = {"artifact": child.digest, "audit": "", "evaluations": {name: each.plain() for name, each in found.items()}}
    (root / "eval.json").write_bytes(msgspec.json.encode(record))
    shortcuts = {"file size": {"value": 0.93, "low": 0.9, "high": 0.95, "n": 90, "reason": "", "biased": True}}
    audit = Audit(
        index="ab", images=90, classes={}, shortcuts=shortcuts, leaks=[], near=[], repeats={}, unreadable=[]
    )
    (root / "audit.json").write_bytes(msgspec.json.encode(audit))
    return root
