"""Detectors side by side: untrained ones at one size, each on its fastest runtime, and both documents."""

import fleet
import msgspec
import pytest

from edgedet.bench import result
from edgedet.bench.probe import Device
from edgedet.bench.result import BenchRow
from edgedet.bench.statistics import Latency


def row(name, runtime, p50, *, digest=None):
    latency = Latency(**{**dict.fromkeys(Latency.__struct_fields__, None), "n": 10, "p50_ms": p50}) if p50 else None
    return BenchRow(
        name=name,
        kind="measured",
        date="2026-01-02",
        device=Device(name="a machine"),
        runtime=runtime,
        digest=digest or f"digest of {name}",
        latency=latency,
        error=None if p50 else "does not load",
    )


def test_each_artifact_keeps_its_fastest_runtime_and_what_is_published_stays():
    published = BenchRow(name="resnet50", kind="published", source="timm", device=Device(name="a card"))
    rows = [row("a", "onnxruntime", 2.0), row("a, openvino", "openvino", 1.0, digest="digest of a")]
    rows += [row("b", "onnxruntime", 3.0), published, row("c", "openvino", None)]
    assert fleet.fastest(rows) == [rows[1], rows[2], published]


def test_a_detector_is_made_at_224_pixels_in_both_precisions(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path))
    monkeypatch.setattr(fleet, "SIDE", 64)
    made = fleet.at_side("npr-student")
    assert [artifact.path.name for artifact in made] == ["npr-student-fp32", "npr-student-int8"]
    assert [artifact.manifest.preprocess.height for artifact in made] == [64, 64]
    assert made[1].model_bytes < made[0].model_bytes
    assert [artifact.digest for artifact in fleet.at_side("npr-student")] == [artifact.digest for artifact in made]


@pytest.mark.slow
def test_one_run_has_a_row_for_each_runtime_and_is_drawn_into_both_documents(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fleet, "SIDE", 32)
    monkeypatch.setattr(fleet, "ROOT", tmp_path)
    lines = tmp_path / "results" / "here-2026-01-02.jsonl"
    fleet.main(["--untrained", "edge32", "--seconds", "0.1", "--record", str(lines)])
    rows = result.load(lines)
    assert [(each.runtime, each.precision) for each in rows] == [
        ("onnxruntime", "fp32"), ("openvino", "fp32"), ("onnxruntime", "int8"), ("openvino", "int8"),
    ]  # fmt: skip
    assert all(each.speedup.baseline == rows[0].name for each in rows)
    (tmp_path / "benchmarks").mkdir()
    for document in ("README.md", "benchmarks/README.md"):
        (tmp_path / document).write_text(f"{fleet.BEGIN}\n{fleet.END}\nsee benchmarks/results/old-2026-01-01.jsonl\n")
    fleet.main(["--draw", str(lines)])
    readme = (tmp_path / "README.md").read_text()
    assert readme.count("| edge32-") == 2
    assert "benchmarks/results/here-2026-01-02.jsonl" in readme
    assert (tmp_path / "benchmarks/README.md").read_text().count("| edge32-") == 4
    assert msgspec.json.decode(lines.read_bytes().splitlines()[0])["weights"] == "untrained"
