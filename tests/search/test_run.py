"""A whole search on tiny images: what it makes, what it keeps when it is killed, and what it refuses."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import tiny_search
from tiny_search import search

from edgedet import target
from edgedet.artifact import Artifact
from edgedet.compress import teacher as answers
from edgedet.errors import StateError, TrainingError
from edgedet.evaluate.collapse import COLLAPSE
from edgedet.search import making, result, run
from edgedet.search.cost import Cost
from edgedet.search.halving import Limits
from edgedet.search.result import Failure
from edgedet.training import checkpoint

NAMES = {f"student-keep{keep}-{precision}" for keep in ("1", "0.6") for precision in ("fp32", "int8")}


def artifacts(folder: Path) -> dict[str, str]:
    """The digest of every whole artifact below `folder`."""
    paths = folder.rglob("manifest.json")
    return {path.parent.relative_to(folder).as_posix(): Artifact.load(path.parent).digest for path in paths}


def test_every_combination_is_a_candidate_with_its_figures(found):
    assert set(found.results) == NAMES
    assert not found.failures
    for each in found.results.values():
        assert 0 < each.worst <= 1
        assert each.drop <= each.drop_bound
        assert each.latency_kind == "measured"
        assert each.latency_ms > 0
        assert each.speedup > 0
    sizes = {name: each.size_bytes for name, each in found.results.items()}
    assert sizes["student-keep1-int8"] < sizes["student-keep1-fp32"]
    assert sizes["student-keep0.6-fp32"] < sizes["student-keep1-fp32"]


def test_half_of_the_networks_go_on_and_train_longer(found):
    rounds = {name: each.rung for name, each in found.results.items()}
    assert sorted(rounds.values()) == [0, 0, 1, 1]
    assert len({name.rpartition("-")[0] for name, rung in rounds.items() if rung == 1}) == 1
    assert {each.rung: each.epochs for each in found.results.values()} == {0: 2, 1: 4}


def test_every_candidate_is_an_artifact_that_descends_from_the_teacher(found, folder, teacher):
    for each in found.results.values():
        made = Artifact.load(folder / each.path)
        stages = [line.stage for line in made.manifest.lineage]
        assert made.digest == each.digest
        assert made.manifest.lineage[0].digest == teacher.digest
        assert stages == (["train", "distill"] if "keep1" in each.name else ["train", "distill", "prune"])


def test_what_is_chosen_is_the_best_that_fits_and_lies_in_best(found, folder):
    assert found.chosen.worst == max(each.worst for each in found.results.values())
    assert Artifact.load(folder / "best").digest == found.chosen.digest


def test_a_finished_search_makes_nothing_again_and_takes_other_limits(found, recipe_path, teacher, data, folder, monkeypatch):
    before = artifacts(folder)
    smallest = min(each.size_bytes for each in found.results.values())
    monkeypatch.setattr(answers, "_answers", lambda *_, **__: pytest.fail("the teacher was asked again"))
    again = search(recipe_path, teacher, data, folder, limits=Limits(size_kb=smallest / 1000 + 0.001), resume=True)
    assert again.chosen.size_bytes == smallest
    assert Artifact.load(folder / "best").digest == again.chosen.digest
    assert {name: digest for name, digest in artifacts(folder).items() if name != "best"} == {
        name: digest for name, digest in before.items() if name != "best"
    }


def test_a_search_is_not_begun_over_another(found, recipe_path, teacher, data, folder, tmp_path):
    with pytest.raises(TrainingError, match="holds a search: add --resume"):
        search(recipe_path, teacher, data, folder)
    other = tmp_path / "other.toml"
    other.write_text(recipe_path.read_text().replace("0.6", "0.7"))
    with pytest.raises(TrainingError, match="another recipe, teacher, data set or target"):
        search(other, teacher, data, folder, resume=True)
    with pytest.raises(TrainingError, match="is there and holds no search"):
        search(recipe_path, teacher, data, tmp_path)


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_at_most_the_candidate_in_flight(recipe_path, teacher, data, tmp_path):
    """SIGKILL once the first candidate has its figures and the second is being made."""
    out = tmp_path / "out"
    data.save(tmp_path / "index.csv")
    command = [sys.executable, tiny_search.__file__, recipe_path, teacher.path, tmp_path / "index.csv", out]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with (
        (tmp_path / "said").open("wb") as said,
        subprocess.Popen([*map(str, command)], env=environment, stdout=said, stderr=said) as child,
    ):
        deadline = time.monotonic() + 900
        while not list(out.rglob("keep1-fp32.json")) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL, (tmp_path / "said").read_text()
    before = artifacts(out)
    assert {"candidates/round0/student/student", "candidates/round0/student/keep1-fp32"} <= set(before)
    resumed = search(recipe_path, teacher, data, out, resume=True)
    assert set(resumed.results) == NAMES
    assert before.items() <= artifacts(out).items()  # nothing that was whole was made again
    assert not list(out.rglob(".*.partial-*"))


def test_a_budget_that_is_spent_leaves_the_rest_out_and_says_so(recipe_path, teacher, data, tmp_path):
    """One network is always tried; with a thousandth of a second left for the others there is only that one."""
    short = search(recipe_path, teacher, data, tmp_path / "short", budget_minutes=0.001 / 60)
    assert set(short.results) == {"student-keep1-fp32", "student-keep1-int8"}
    assert {each.rung for each in short.results.values()} == {0}
    assert any("round 1 of student-keep0.6 left out" in note for note in short.notes)
    assert any("round 2 of student-keep1 left out" in note for note in short.notes)


def test_what_is_known_costs_nothing_of_a_budget_that_is_spent(found, recipe_path, teacher, data, folder):
    """A candidate that failed has no artifact, only its record."""
    failed = Failure(name="student-keep0.6-int8", rung=0, reason="for the test")
    kept = folder / "candidates" / "round0" / "student" / "keep0.6-int8.json"
    before = kept.read_bytes()
    result.save(kept, failed)
    shutil.move(kept.with_suffix(""), folder.parent / "aside")
    try:
        again = search(recipe_path, teacher, data, folder, budget_minutes=0.001 / 60, resume=True)
    finally:
        shutil.move(folder.parent / "aside", kept.with_suffix(""))
        kept.write_bytes(before)
    assert again.failures == {failed.name: failed}
    assert set(again.results) == NAMES - {failed.name}


def test_a_disk_that_is_full_ends_the_search_and_fails_no_candidate(tmp_path):
    def full(candidate, rung):
        raise checkpoint.unwritable(tmp_path / "state.pt", OSError(errno.ENOSPC, "No space left on device"))

    job = run._Job(SimpleNamespace(make=full), None, None, None, None, tmp_path, None)
    with pytest.raises(StateError, match="No space left on device"):
        job.judged(SimpleNamespace(name="a-int8"), 1)


@pytest.mark.parametrize(("limits", "first"), [(Limits(drop=0.02), "c0"), (Limits(latency_ms=10.0), "c10")])
def test_what_may_be_chosen_is_measured_again_before_the_rest_of_the_front(limits, first, monkeypatch, tmp_path):
    """Thirty networks, each slower and more accurate than the one before; c10 exceeds a limit of 10 ms by 5 %."""
    many = [tiny_search.result(f"c{i}", worst=0.9 + i / 1000, ms=0.5 + i, drop=0.01) for i in range(30)]
    measured = []
    monkeypatch.setattr(run.Artifact, "load", lambda path: path.name)

    def timed(made, *_):
        measured.extend(made)
        return [Cost(1.0, "measured", 0.0, 9.0)] * len(made)

    monkeypatch.setattr(run.cost, "of", timed)
    found = run.Search({each.name: each for each in many})
    maker = SimpleNamespace(target=target.resolve("host"))
    run._Job(maker, None, limits, None, found, tmp_path, tiny_search.QUICK).measure_again()
    assert len(measured) == 12
    assert measured[0] == first
    assert found.results[f"{first}-int8"].speedup == 9.0


def test_a_rounds_candidates_are_timed_once_more_together_and_the_better_counts(found, folder):
    """Of the first round here; it is written down, for a restart must not decide otherwise."""
    first = folder / "candidates" / "round0"
    names = json.loads((first / run.COMPARED).read_text())
    assert sorted(names) == sorted(NAMES)
    alone = tiny_search.result("a", ms=2.0, speedup=20.0, high=21.0)
    slower, faster = Cost(3.0, "measured", 0.0, 15.0, speedup_high=30.0), Cost(1.0, "measured", 0.0, 44.0, speedup_high=45.0)
    assert result.better(alone, slower) == msgspec.structs.replace(alone, speedup_high=30.0)
    assert result.better(alone, faster) == result.priced(alone, faster)
    assert result.priced(alone, slower).latency_ms == 3.0


def test_only_what_was_made_in_a_round_is_timed_again_with_it(monkeypatch, tmp_path):
    """The best first; what stopped in an earlier round keeps its record there and gets none here."""
    many = {each.name: each for each in (tiny_search.result(name, worst=worst) for name, worst in (("a", 0.8), ("b", 0.9)))}
    many["old-int8"] = tiny_search.result("old", worst=0.95)
    many = {name: msgspec.structs.replace(each, rung=0 if name == "old-int8" else 1) for name, each in many.items()}
    maker = SimpleNamespace(target=target.resolve("host"))
    job = run._Job(maker, None, None, None, run.Search(many), tmp_path, tiny_search.QUICK)
    asked = []
    monkeypatch.setattr(job, "timed", lambda names: asked.extend(names) or [Cost(0.5, "measured", 0.0, 9.0)] * len(names))
    job.compare(1)
    assert asked == ["b-int8", "a-int8"]
    assert sorted(path.name for path in (tmp_path / "candidates").glob("*.json")) == ["a.json", "b.json"]


def test_seconds_add_up_also_of_what_came_to_nothing(tmp_path):
    def interrupted():
        with making.clocked(tmp_path / "a"):
            time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    once = making.seconds_of(tmp_path / "a")
    with making.clocked(tmp_path / "a"):
        time.sleep(0.01)
    assert 0.01 <= once < 0.02 + once <= 0.01 + making.seconds_of(tmp_path / "a")


def test_a_recipe_that_trains_longer_in_a_later_round_is_another_search(found, recipe_path, teacher, data, folder):
    """Of 4 and of 5 epochs the first of two rounds has 2."""
    student = recipe_path.with_name("student.toml")
    before = student.read_text()
    student.write_text(before.replace("epochs = 4", "epochs = 5"))
    try:
        with pytest.raises(TrainingError, match="another recipe"):
            search(recipe_path, teacher, data, folder, resume=True)
    finally:
        student.write_text(before)


def test_a_stage_that_refuses_is_kept_as_a_failure_with_its_reason(recipe_path, teacher, data, tmp_path):
    (tmp_path / "student.toml").write_text(tiny_search.STUDENT)
    (tmp_path / "prune.toml").write_text(tiny_search.PRUNE + "\nround_to = 64\n")
    hopeless = tmp_path / "compress.toml"
    text = tiny_search.COMPRESS.format(tmp_path).replace("[1.0, 0.6]", "[0.6]").replace("rungs = 2", "rungs = 1")
    hopeless.write_text(text.replace('["fp32", "int8"]', '["fp32"]'))
    (tmp_path / "prune.toml").write_text(tiny_search.PRUNE.replace("steps = 1", "steps = 1\nround_to = 64"))
    found = search(hopeless, teacher, data, tmp_path / "out")
    assert not found.results
    assert "no more can be removed" in found.failures["student-keep0.6-fp32"].reason
    kept = json.loads(next((tmp_path / "out").rglob("keep0.6-fp32.json")).read_text())
    assert kept["failure"]["reason"] == found.failures["student-keep0.6-fp32"].reason


def test_a_network_that_another_share_gave_already_is_not_trained_twice(recipe_path, teacher, data, tmp_path):
    """Widths go in steps of eight: 0.6 and 0.595 of the work are the same network, and 0.54 is the next."""
    text = recipe_path.read_text().replace("[1.0, 0.6]", "[0.6, 0.595, 0.545]").replace('"fp32", "int8"', '"fp32"')
    compress = tmp_path / "compress.toml"
    compress.write_text(text.replace("rungs = 2", "rungs = 1"))
    found = search(compress, teacher, data, tmp_path / "out")
    assert set(found.results) == {"student-keep0.6-fp32", "student-keep0.545-fp32"}
    assert "leaves the network that student-keep0.6 is" in found.failures["student-keep0.595-fp32"].reason


def test_what_is_searched_is_written_down(found, folder, teacher):
    kept = msgspec.json.decode((folder / run.SETTINGS).read_bytes())
    assert (kept["teacher"], kept["target"], kept["recipe"]["keep"]) == (teacher.digest, "cpu-x86", [1.0, 0.6])


def test_a_graph_that_collapsed_is_refused_with_its_reason(teacher, tmp_path):
    """Nothing is measured of it: what it lost is known from its manifest."""
    lost = {COLLAPSE: {"text": "COLLAPSED under int8: for the test"}}
    made = Artifact(teacher.path, msgspec.structs.replace(teacher.manifest, metrics=lost), "digest")
    maker = SimpleNamespace(make=lambda candidate, rung: made)
    job = run._Job(maker, None, None, None, None, tmp_path, None)
    assert job.judged(SimpleNamespace(name="a-int8"), 1) == Failure(name="a-int8", rung=1, reason=lost[COLLAPSE]["text"])
