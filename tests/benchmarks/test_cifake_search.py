"""The search for a small CIFAKE detector, at its smallest, and what is drawn of it."""

import json
import shutil
from pathlib import Path

import cifake_search as bench
import pytest
import tiny_search
import torch
from msgspec.structs import replace
from tiny_training import RECIPE, train_stage, write_images

from edgedet.artifact import Artifact

STUDY = Path(bench.__file__).parent.parent / "docs" / "study.md"


@pytest.mark.slow
def test_two_teachers_become_one_that_is_searched_and_set_beside_what_was_found(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    data = write_images(tmp_path / "data", train=32, ranges=24, val=24, test=24)
    data.save(tmp_path / "index.csv")
    other = replace(RECIPE, training=replace(RECIPE.training, seed=1))
    teachers = [train_stage(data, tmp_path / name, each) for name, each in (("one", RECIPE), ("two", other))]
    compress = tiny_search.write_recipes(tmp_path)
    given = ["--data", str(tmp_path / "index.csv"), "--teachers", *(str(each.path) for each in teachers)]
    given += ["--recipe", str(compress), "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "found.json")]
    given += ["--max-drop", "1", "--min-speedup", "0.001", "--seconds", "0.1"]
    bench.main(given)
    found = json.loads((tmp_path / "found.json").read_text())
    first, second = found["rows"]
    assert (first["detector"], first["flips"]["value"], first["speedup"]["value"]) == ("ensemble", 0, 1)
    assert second["bytes"] < 100_000
    assert found["chosen"] == found["shown"]
    assert {each["name"] for each in found["candidates"]} >= {found["chosen"]}
    assert "chosen: `" in bench.markdown(found)

    bench.main([*given, "--max-size-kb", "0.001"])
    assert json.loads((tmp_path / "found.json").read_text())["chosen"] is None


def test_a_teacher_of_two_recipes_goes_on_from_the_first_and_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench, "TEACHERS", (("first", "second"),))
    monkeypatch.setattr(bench.recipe, "load", lambda folder, name, into: RECIPE)
    torch.set_num_threads(1)
    data, out = write_images(tmp_path / "data", train=32, val=24), tmp_path / "out"
    (made,) = bench.trained(data, out)
    assert made.path == out / "second"
    assert made.manifest.parent.digest == Artifact.load(out / "first").digest
    shutil.rmtree(out / "first")  # once the last is there, nothing before it is missed
    (again,) = bench.trained(data, out)
    assert again.digest == made.digest


def test_the_document_shows_the_search_that_was_recorded():
    text = STUDY.read_text(encoding="utf-8")
    shown = text.partition(bench.BEGIN)[2].partition(bench.END)[0].strip()
    recorded = json.loads(bench.RESULTS.read_text()) if bench.RESULTS.is_file() else None
    assert bench.BEGIN in text
    assert shown == (bench.markdown(recorded).strip() if recorded else "")


def test_without_data_it_says_so(capsys, monkeypatch):
    monkeypatch.delenv("EDGEDET_DATA", raising=False)
    bench.main([])
    assert capsys.readouterr().out == "skipped: give --data or set EDGEDET_DATA\n"
