"""How a tool is asked: in a process of its own, with a limit, and once."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comparison import clock, methods
from comparison.environment import Environment, NotInstalled, said
from comparison.methods import METHODS, Limits, Method
from toy_tool import mean_logits

TOY = str(Path(__file__).parents[1] / "toy_tool.py")


@pytest.fixture
def ready(tmp_path):
    """What `comparison.case.prepare` gives, as far as a tool that is not edgedet reads it."""
    rng = np.random.default_rng(0)
    held_out, test = (rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8) for _ in range(2))
    np.savez(tmp_path / "images.npz", ranges=held_out, held_out=held_out, logits=mean_logits(held_out))
    np.save(tmp_path / "test.npy", test)
    (tmp_path / "float.onnx").write_text("the float graph")
    return SimpleNamespace(
        graph=tmp_path / "float.onnx", images=tmp_path / "images.npz", test=tmp_path / "test.npy", key="one case"
    )


def ask(method: Method, ready, tmp_path, minutes: float = 1.0):
    return methods.ask(method, ready, tmp_path / "rows", tmp_path / "environments", Limits(minutes=minutes))


def test_an_answer_is_kept_until_the_case_changes(ready, tmp_path):
    toy = Method("Toy, best", TOY, "best")
    first = ask(toy, ready, tmp_path)
    assert (first["error"], first["chosen"], toy.folder) == (None, "fine", "toy-best")
    written = (Path(first["folder"]) / "answer.json").stat().st_mtime_ns
    assert ask(toy, ready, tmp_path) == first
    assert (Path(first["folder"]) / "answer.json").stat().st_mtime_ns == written
    ready.key = "another case"
    assert ask(toy, ready, tmp_path)["key"] != first["key"]
    assert (Path(first["folder"]) / "answer.json").stat().st_mtime_ns > written


def test_a_tool_that_hangs_or_dies_is_a_row_with_its_reason(ready, tmp_path):
    assert ask(Method("endless", TOY, "endless"), ready, tmp_path, minutes=0.05)["error"] == "not done after 0.05 minutes"
    assert ask(Method("unknown", TOY, "no such mode"), ready, tmp_path)["error"] == "KeyError: 'no such mode'"


def test_models_in_other_processes_are_timed_in_turns_with_those_here(ready, tmp_path):
    answer = ask(Method("toy", TOY, "defaults"), ready, tmp_path)
    command = [answer["python"], TOY, "time", f"{answer['folder']}/{answer['model']}", str(ready.test), "1"]
    there = clock.There(command, minutes=1.0)
    try:
        samples = clock.take_turns({"there": there, "again": there}, rounds=3)
    finally:
        there.close()
    found = clock.latencies(samples, "there")
    assert found["there"]["times_slower"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert all(line["p50_ms"] > 0 for line in found.values())
    assert samples["again"].rounds.tolist() == sorted(samples["again"].rounds.tolist())


def test_every_row_has_a_name_a_folder_and_a_script_of_its_own():
    assert len({method.folder for method in METHODS}) == len(METHODS)
    assert all((methods.PEERS / method.script).is_file() for method in METHODS)
    assert METHODS[0].name == methods.BASELINE
    pinned = [name for method in METHODS if method.environment for name in method.environment.installs[0]]
    assert all("==" in name for name in pinned if not name.startswith("-"))


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("WARNING: a\nERROR: no wheel for b\nERROR: no matching distribution\nnotice: c\n", "ERROR: no matching distribution"),
        ("Traceback\n  File x\nImportError: libcudart\n", "ImportError: libcudart"),
        ("", "it failed without a word"),
    ],
)
def test_a_failure_is_told_in_the_tools_own_words(output, line):
    assert said(output) == line


@pytest.mark.slow
def test_what_cannot_be_installed_says_what_pip_said(tmp_path):
    environment = Environment("none", (("--no-index", "no-such-distribution==0"),))
    with pytest.raises(NotInstalled, match=r"ERROR: No matching distribution found for no-such-distribution==0"):
        environment.python(tmp_path, minutes=5)
    assert not list(tmp_path.glob("*/ready"))
