"""The study of compression: its steps on tiny images, what is taken as it is, and what is drawn."""

import json
import re

import compression_study as study
import pytest
import study_page
import torch
from tiny_training import RECIPE, train_stage, write_images

from edgedet.artifact import Artifact

TINY = study.Case(
    "tiny",
    student=(
        "detector.arguments.width=24", "preprocess={height=16, width=16}", "training.epochs=20", "training.batch_size=16",
        "training.lr=0.01", "training.warmup_epochs=0", "training.amp=false",
    ),
    prune=(
        "training.epochs=24", "training.lr=0.01", "training.batch_size=16", "training.amp=false", "training.warmup_epochs=0",
    ),
    qat=("training.epochs=1", "training.batch_size=16"),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, a teacher, and the command's arguments for one seed."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDET_CACHE", str(folder / "cache"))
        patch.setitem(study.CASES, "tiny", TINY)
        patch.setattr(study, "KEEP", (75, 50))
        patch.setattr(study, "DEGRADATIONS", ("jpeg-50", "blur-3"))
        torch.set_num_threads(1)
        data = write_images(folder / "data", train=48, ranges=16, val=24, test=24)
        data.save(folder / "index.csv")
        teacher = train_stage(data, folder / "teacher", RECIPE)
        given = ["tiny", "--data", str(folder / "index.csv"), "--teachers", str(teacher.path), "--seeds", "0"]
        given += ["--out", str(folder / "runs"), "--results", str(folder / "study.json")]
        study.main(given)
        yield folder, given


@pytest.mark.slow
def test_every_step_is_a_row_of_its_own_artifact(made):
    folder, _ = made
    case = json.loads((folder / "study.json").read_text())["cases"]["tiny"]
    assert [row["name"] for row in case["rows"]] == [
        "teacher", "student", "pruned to 75 %", "pruned to 50 %", "INT8", "INT8, trained", "pruned to 50 %, INT8",
    ]  # fmt: skip
    for row in case["rows"]:
        assert set(row["tiers"]) == {"clean", "web", "hard"}
        assert row["worst"]["condition"] in ("jpeg-50", "blur-3")
        assert set(row["generators"]) == {"nearest", "bilinear"}
    by_name = {row["name"]: row for row in case["rows"]}
    assert by_name["teacher"]["flips"]["value"] == 0
    assert by_name["pruned to 50 %, INT8"]["bytes"] < by_name["INT8"]["bytes"] < by_name["student"]["bytes"]
    trained = Artifact.load(folder / "runs" / "tiny" / "seed0" / "int8-trained")
    assert (trained.digest, trained.manifest.stage) == (by_name["INT8, trained"]["digest"], "qat")


@pytest.mark.slow
def test_what_is_there_is_taken_as_it_is(made, monkeypatch):
    folder, given = made
    before = json.loads((folder / "study.json").read_text())

    def never(*_):
        raise AssertionError("scored again")

    monkeypatch.setattr(study.Study, "_row", never)
    study.main(given)
    assert json.loads((folder / "study.json").read_text())["cases"]["tiny"]["rows"] == before["cases"]["tiny"]["rows"]


@pytest.mark.slow
def test_rows_are_timed_in_turns_with_the_teacher(made, monkeypatch):
    folder, given = made
    graphs = study.Study.graphs
    monkeypatch.setattr(study.Study, "graphs", lambda *own: {each: graphs(*own)[each] for each in ("teacher", "INT8")})
    study.main([*given, "--latency", "--seconds", "0.1"])
    timed = json.loads((folder / "study.json").read_text())["cases"]["tiny"]["latency"]["rows"]
    assert set(timed) == {"teacher", "INT8"}
    assert timed["teacher"]["speedup"]["value"] == 1
    assert timed["INT8"]["p50_ms"] > 0


def figure(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 100, "reason": ""}


def row(name, seed, value, **changes):
    tier = {"balanced_accuracy": figure(value), "auc": figure(value), "tpr_at_fpr1": figure(value - 0.2)}
    generators = {"sd1": figure(value), "flux1": figure(value - 0.1)}
    facts = {"seed": seed, "name": name, "digest": "d", "bytes": 50_000, "n": 930, "generators": generators}
    worst = {"condition": "blur-1", "balanced_accuracy": figure(0.6)}
    return {**facts, "tiers": dict.fromkeys(study.TIERS, tier), "worst": worst, "flips": figure(0.05)} | changes


def test_the_table_has_means_over_seeds_and_a_dash_for_what_was_not_timed(tmp_path):
    rows = [row("teacher", 0, 0.9), row("INT8", 0, 0.8), row("INT8", 1, 0.84)]
    rows.append({"seed": 0, "name": "INT8, trained", "refused": "lost too much"})
    timed = {"teacher": {"p50_ms": 1.25, "threads": 2, "speedup": {"value": 1.0, "low": 1.0, "high": 1.0}}}
    case = {"rows": rows, "date": "2026-01-02", "device": "a machine", "tools": {"torch": "2"}, "latency": {"rows": timed}}
    lines = study_page.markdown(case).splitlines()
    assert lines[2].startswith("| teacher | 50.0 | 1.00 [1.00, 1.00] | 90.0 [88.0, 92.0] |")
    assert lines[3] == (
        "| INT8 | 50.0 | – | 82.0 ± 2.8 [80.0, 84.0] | 82.0 ± 2.8 [80.0, 84.0] | 82.0 ± 2.8 [80.0, 84.0] "
        "| 60.0 ± 0.0 [58.0, 62.0] (blur-1) | 62.0 ± 2.8 [60.0, 64.0] | 72.0 ± 2.8 [70.0, 74.0] (flux1) "
        "| 5.0 ± 0.0 [3.0, 7.0] |"
    )
    assert "- the teacher takes 1.25 ms on 2 threads; the rows of the first seed, in turns" in lines
    assert lines[-2:] == ["- of fewer seeds: teacher", "- INT8, trained, seed 0: lost too much"]
    (tmp_path / "study.md").write_text("before\n<!-- study: a -->\n<!-- /study: a -->\nafter\n")
    study_page.draw({"cases": {"a": case}}, tmp_path)
    drawn = (tmp_path / "study.md").read_text()
    assert drawn.startswith("before\n<!-- study: a -->\n| step |")
    assert drawn.endswith("<!-- /study: a -->\nafter\n")
    assert (tmp_path / "study-a.svg").read_text().count("INT8") == 1


def test_the_document_shows_what_was_recorded():
    docs = study.ROOT / "docs"
    text, recorded = (docs / "study.md").read_text(encoding="utf-8"), study.load(study.RESULTS)["cases"]
    drawn = re.findall(r"<!-- study: (\w+) -->\n(.*?)<!-- /study: \1 -->", text, re.DOTALL)
    assert dict(drawn) == {name: study_page.section(name, case) for name, case in recorded.items()}
    assert all((docs / f"study-{name}.svg").is_file() for name in recorded)


def test_a_figure_that_cannot_be_measured_is_a_dash():
    assert study_page.over_seeds([figure(0.5), {"value": None, "low": None, "high": None}]) == "–"


def test_a_case_without_teachers_is_refused(capsys):
    with pytest.raises(SystemExit):
        study.main(["cifake", "--data", "anywhere"])
    assert "needs --teachers" in capsys.readouterr().err


def test_without_data_it_says_so(capsys, monkeypatch):
    monkeypatch.delenv("EDGEDET_DATA", raising=False)
    study.main(["cifake", "--teachers", "teacher", "--results", "nowhere.json"])
    assert capsys.readouterr().out == "skipped: give --data or set EDGEDET_DATA\n"
