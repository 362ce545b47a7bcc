"""The comparison with other quantizers: its tables, and one run of it on a network that is trained here in seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import quantization
from comparison import methods, table
from comparison.case import UNTRAINED_RANGES, UNTRAINED_TEST, Case, _few
from comparison.methods import METHODS, Limits
from comparison.rescaled import rescaled

from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run

ROOT = Path(__file__).resolve().parents[2]


def row(name, flips, *, own=False, **more):
    figures = {"mean_error": 0.01234, "max_error": 0.5, "auc": 0.9871, "balanced_accuracy": 0.95, "flips": flips}
    return {
        "name": name,
        "own": own,
        "error": None,
        "versions": {"tool": "1.2"},
        "chosen": "mse",
        "layers": [7, 8],
        **figures,
        **more,
    }


def case(*rows, **more):
    facts = {"name": "npr", "data": "pairs.tar", "pixels": 128, "n": 930, "date": "2026-01-02", "trained": True, "notes": []}
    return {**facts, "rows": list(rows), **more}


def drawn(*cases) -> list[str]:
    return table.markdown({"cases": cases}).splitlines()


def test_a_case_is_a_titled_table_with_the_float_row_first():
    timed = {"p50_ms": 2.5, "times_slower": {"value": 1.25, "low": 1.2, "high": 1.3}}
    lines = drawn(case({"name": "float", "own": False, "mean_error": 0.0}, row("edgedet, x86", 2, own=True, **timed)))
    assert lines[0] == "**npr** on pairs.tar (128 px, 930 test images; 2026-01-02)"
    assert lines[2].count("|") == lines[3].count("|") == len(table.COLUMNS) + 1
    assert lines[4] == "| float | – | – | 0 | – | – | – | – | – | – |"
    expected = "| edgedet, x86 | mse | 7 of 8 | 0.0123 | 0.5 | 98.71 | 95.00 | 2 | 2.500 | 1.25 [1.20, 1.30] |"
    assert lines[5] == expected
    assert lines[7] == "- edgedet, x86: tool 1.2"


@pytest.mark.parametrize(
    ("own", "other", "line"),
    [
        (2, 5, "- fewest flips: 2 by edgedet, x86; the next: 5 by NNCF"),
        (5, 5, "- fewest flips: 5 by edgedet, x86; as few: 5 by NNCF"),
        (7, 5, "- edgedet has **not** the fewest flips: 7 by edgedet, x86, 5 by NNCF"),
    ],
)
def test_the_table_says_who_changed_the_fewest_verdicts(own, other, line):
    lines = drawn(case({"name": "float", "own": False, "flips": 0}, row("edgedet, x86", own, own=True), row("NNCF", other)))
    assert line in lines


def test_a_tool_that_failed_stays_with_its_reason():
    failed = {"name": "ModelOpt", "own": False, "error": "not installed: ERROR: no wheel"}
    partly = row("NNCF", 1, candidates=[{"name": "mixed", "error": "no memory"}, {"name": "defaults", "error": None}])
    lines = drawn(case(failed, partly))
    assert "| ModelOpt | failed | – | – | – | – | – | – | – | – |" in lines
    assert "- ModelOpt: not installed: ERROR: no wheel" in lines
    assert "- NNCF, mixed: no memory" in lines


def test_a_case_replaces_the_one_of_its_name(tmp_path):
    path = tmp_path / "results" / "quantization.json"
    for name, date in (("a", "1"), ("b", "1"), ("a", "2")):
        quantization.record(case(name=name, date=date), path)
    assert [(each["name"], each["date"]) for each in json.loads(path.read_text())["cases"]] == [("a", "2"), ("b", "1")]


def test_only_what_is_between_the_marks_is_drawn_anew(tmp_path):
    results, document = tmp_path / "results.json", tmp_path / "README.md"
    quantization.record(case(row("NNCF", 1)), results)
    document.write_text(f"before\n{quantization.BEGIN}\nold\n{quantization.END}\nafter\n")
    quantization.draw(results, document)
    text = document.read_text()
    assert text.startswith(f"before\n{quantization.BEGIN}\n**npr**")
    assert text.endswith(f"{quantization.END}\nafter\n")
    assert "old" not in text


def test_the_document_shows_the_results_that_were_recorded():
    text = quantization.README.read_text(encoding="utf-8")
    assert quantization.BEGIN in text
    shown = text.partition(quantization.BEGIN)[2].partition(quantization.END)[0].strip()
    recorded = json.loads(quantization.RESULTS.read_text()) if quantization.RESULTS.is_file() else {"cases": []}
    assert shown == table.markdown(recorded).strip()


def test_where_rounding_cost_half_a_point_the_table_says_what_training_won_back():
    def accurate(name, points, **more):
        return {**row(name, 3, **more), "balanced_accuracy": points / 100}

    rows = [accurate("float", 96), accurate("edgedet, x86", 95.6), accurate("edgedet, x86, trained", 95.9)]
    rows += [accurate("edgedet, TensorRT", 80), accurate("edgedet, TensorRT, trained", 92), accurate("NNCF", 70)]
    lines = drawn(case(*rows, rescaled=True))
    assert "; 2026-01-02), channels" not in lines[0]
    assert "channels rescaled: the same in float" in lines[0]
    (line,) = (line for line in lines if "won" in line)
    assert line == "- edgedet, TensorRT: rounding cost 16.00 points of balanced accuracy, training won 12.00 back (75%)"


def test_rescaled_channels_change_rounding_and_nothing_in_float(tmp_path, monkeypatch):
    from tiny_training import train_stage, write_images

    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    data = write_images(tmp_path / "data", train=64, ranges=48, val=32)
    teacher = train_stage(data, tmp_path / "teacher")
    found = rescaled(teacher, data, tmp_path / "rescaled")
    golden = teacher.golden
    np.testing.assert_allclose(found.golden.logits, golden.logits, atol=1e-4 * np.abs(golden.logits).max())
    config = ExportConfig(precision="int8", target="cpu-x86", images=32, held_out=8, parity=ParityGate(), gates=())
    errors = [
        run(config, each, data, tmp_path / name, assessed=False).manifest.metrics["parity"]["mean_relative"]
        for each, name in ((teacher, "a"), (found, "b"))
    ]
    assert errors[1] > 5 * errors[0]


def test_an_untrained_network_is_run_on_few_images(tmp_path):
    from tiny_training import write_images

    few = _few(write_images(tmp_path / "data", train=8, ranges=80, val=8, test=100))
    assert len(few.split("ranges")) == UNTRAINED_RANGES
    assert len(few.split("test")) == UNTRAINED_TEST
    assert len(few) == UNTRAINED_RANGES + UNTRAINED_TEST


@pytest.mark.slow
def test_edgedet_and_another_tool_are_compared_on_one_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from tiny_training import train_stage, write_images

    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    data = write_images(tmp_path / "data", train=64, ranges=48, val=32, test=40)
    data.save(tmp_path / "data.csv")
    train_stage(data, tmp_path / "teacher")
    rows = ("edgedet-x86", "edgedet-x86-trained", "quantize-static-defaults")
    wanted = [method for method in METHODS if method.folder in rows]
    asked = Case("tiny", str(tmp_path / "teacher"), str(tmp_path / "data.csv"))
    found = quantization.compare(asked, wanted, tmp_path / "work", Limits(minutes=5), timed=True)
    names = ["float", methods.BASELINE, "edgedet, x86, trained", "quantize_static, defaults"]
    assert [line["name"] for line in found["rows"]] == names
    assert all(line.get("error") is None for line in found["rows"])
    assert found["rows"][0]["mean_error"] == 0
    for line in found["rows"][1:]:
        assert 0 < line["mean_error"] <= line["max_error"]
        assert line["layers"][0] > 0
        assert line["name"].endswith("trained") or line["times_slower"]["value"] > 0
    assert (found["n"], found["pixels"], found["source"], found["data"]) == (40, 16, "teacher", "data.csv")


@pytest.mark.slow
def test_nncf_answers_in_an_environment_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from tiny_training import train_stage, write_images

    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    data = write_images(tmp_path / "data", train=64, ranges=48, val=32, test=40)
    data.save(tmp_path / "data.csv")
    train_stage(data, tmp_path / "teacher")
    (nncf,) = (method for method in METHODS if method.environment is methods.NNCF)
    asked = Case("tiny", str(tmp_path / "teacher"), str(tmp_path / "data.csv"))
    found = quantization.compare(asked, [nncf], tmp_path / "work", Limits(minutes=10), timed=False)
    line = found["rows"][1]
    if line["error"] and line["error"].startswith("not installed"):
        pytest.skip(line["error"])
    assert line["runtime"] == "openvino"
    assert 0 < line["mean_error"] <= line["max_error"]
    assert line["layers"][0] > 0
