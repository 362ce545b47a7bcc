import msgspec
import numpy as np
import pytest

from edgedet import metrics
from edgedet.artifact import Artifact
from edgedet.errors import BenchError
from edgedet.evaluate import assess
from edgedet.report import content
from edgedet.report.build import build


def test_the_original_is_on_top_and_a_later_line_takes_the_place_of_an_earlier_one(report):
    (run,) = report.runs
    assert [(row.name, row.kind) for row in run.rows] == [
        ("teacher", "measured"), ("child", "measured"), ("resnet50", "published"),
    ]  # fmt: skip
    assert run.older == 1


def test_the_difference_to_the_original_is_paired_on_its_images(report, whole):
    teacher, child = report.subjects
    assert (teacher.name, teacher.curves.delta) == ("teacher", None)
    kept = assess.kept(Artifact.load(whole / "line" / "child"))
    accuracies = [metrics.balanced_accuracy(c.verdict(z), kept.labels) for z, c in (kept.own, kept.ancestor)]
    assert child.curves.delta["value"] == pytest.approx(accuracies[0] - accuracies[1])
    assert child.curves.delta["low"] <= child.curves.delta["value"] <= child.curves.delta["high"]
    assert child.metrics["balanced_accuracy"]["value"] == pytest.approx(accuracies[0])


def test_operating_points_lie_on_the_curve(report):
    curves = report.subjects[1].curves
    fpr, tpr = np.array(curves.roc).T
    assert [point.name for point in curves.points if point.default] == ["balanced"]
    for point in curves.points:
        steps = np.linspace(0, 1, 101)[:, None]
        distance = np.hypot(  # to each piece of the curve
            fpr[:-1] + steps * np.diff(fpr) - point.fpr, tpr[:-1] + steps * np.diff(tpr) - point.tpr
        )
        assert distance.min() < 0.01
    assert sum(weight for _, _, weight in curves.reliability) == pytest.approx(1)


def test_conditions_of_an_evaluation_join_the_manifests(report):
    sweeps = {sweep.name: sweep for sweep in report.sweeps}
    assert {name: sweep.split for name, sweep in sweeps.items()} == {"teacher": "val", "child": "val"}
    assert set(sweeps["child"].conditions) == {"clean", "hard", "jpeg-90", "jpeg-50", "web", "resize-0.5-bilinear"}
    assert set(sweeps["child"].generators) == {"gan", "diffusion"}


def test_a_distribution_is_the_quantiles_of_the_samples(report):
    model = next(each for each in report.latencies if (each.name, each.scenario) == ("teacher", "model"))
    row = next(row for row in report.runs[0].rows if row.name == "teacher")
    assert model.n == row.latency.n == 200
    assert model.quantiles_ms[50] == pytest.approx(row.latency.p50_ms)
    assert model.quantiles_ms[90] == pytest.approx(row.latency.p90_ms)


def test_what_there_is_nothing_for_is_said(folder):
    assert build(folder).missing == ()
    for name in ("eval.json", "audit.json", "samples.npz"):
        (folder / name).unlink()
    said = build(folder).missing
    assert [line.partition(":")[0] for line in said] == ["no raw samples", "no audit"]  # artifacts keep what thresholds saw
    (folder / "cpu.jsonl").unlink()
    assert build(folder).missing[0].startswith("no result lines")


def test_an_artifact_without_validation_has_no_curves_and_says_why(folder, make_onnx_artifact):
    made = make_onnx_artifact("results/bare")
    found = build(folder)
    bare = next(each for each in found.subjects if each.digest == made.digest)
    assert bare.curves is None
    assert "no curves of bare: keeps no validation logits: make it with --data" in found.missing


def test_a_folder_without_anything_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(BenchError, match=r"neither artifacts nor result lines.*a.jsonl:1"):
        build(tmp_path)


def test_a_report_is_plain_data(report):
    encoded = msgspec.json.encode(report)
    assert msgspec.json.decode(encoded, type=content.Report) == report
