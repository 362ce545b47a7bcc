"""edgedet's INT8 graph against NNCF's: the table, and three models that take turns here."""

import json

import nncf_latency as bench
import pytest

from edgedet.export.stage import ExportConfig, run


def record(value, **more):
    times = dict(zip((bench.ON_ORT, bench.ON_OPENVINO, bench.THEIRS), (2.0, 1.0, value), strict=True))
    facts = {"trained": True, "pixels": 128, "threads": 1, "date": "2026-01-02", "device": "a machine", "tools": {"nncf": "3"}}
    return {**facts, "p50_ms": times, "ratio": {"value": value, "low": value - 0.1, "high": value + 0.1}, **more}


def test_the_table_says_where_nncf_is_faster():
    lines = bench.markdown({"npr": record(0.5), "lite0": record(0.95), "resnet50": record(1.2, trained=False)}).splitlines()
    assert lines[2] == "| npr | 128 | 1 | 2.000 | 1.000 | 0.500 | 0.50 [0.40, 0.60] |"
    assert lines[4].startswith("| resnet50 (untrained) | 128 |")
    assert lines[6:] == ["- slower than NNCF's: npr", "- 2026-01-02, a machine, nncf 3"]


def test_the_document_shows_the_results_that_were_recorded():
    text = bench.README.read_text(encoding="utf-8")
    shown = text.partition(bench.BEGIN)[2].partition(bench.END)[0].strip()
    recorded = json.loads(bench.RESULTS.read_text()) if bench.RESULTS.is_file() else None
    assert bench.BEGIN in text
    assert shown == (bench.markdown(recorded).strip() if recorded else "")


def test_three_take_turns(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    from tiny_training import train_stage, write_images

    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    data = write_images(tmp_path / "data", train=32, ranges=48, val=32, test=40)
    data.save(tmp_path / "data.csv")
    teacher = train_stage(data, tmp_path / "teacher")
    graph = run(ExportConfig(), teacher, data, tmp_path / "graph").graph
    monkeypatch.setattr(bench, "_graph", lambda *_: graph)  # NNCF's own graph is test_quantization's
    case = bench.Case("tiny", str(tmp_path / "teacher"), str(tmp_path / "data.csv"))
    found = bench.compare(case, tmp_path / "work", bench.Limits(), rounds=3)
    assert set(found["p50_ms"]) == {bench.ON_ORT, bench.ON_OPENVINO, bench.THEIRS}
    assert found["best"] in (bench.ON_ORT, bench.ON_OPENVINO)
    assert found["p50_ms"][found["best"]] == min(found["p50_ms"][bench.ON_ORT], found["p50_ms"][bench.ON_OPENVINO])
    assert found["ratio"]["low"] <= found["ratio"]["value"] <= found["ratio"]["high"]
