import numpy as np
import pytest

from edgedet.bench import samples
from edgedet.bench.scenarios import Comparison
from edgedet.bench.statistics import Samples
from edgedet.errors import BenchError


def test_every_timed_call_comes_back(tmp_path):
    timed = {"a": Samples(np.array([5, 7, 6]), np.array([0, 0, 1])), "b": Samples(np.array([1]), np.array([0]))}
    model, whole = Comparison("a", timed, {}), Comparison("a", {"a": timed["b"]}, {})
    samples.save(tmp_path / "s.npz", model, whole, {"a": "aa", "b": "bb"}, date="2026-01-02")
    found = samples.load(tmp_path / "s.npz")
    assert [(each.name, each.digest, each.scenario, each.date) for each in found] == [
        ("a", "aa", "model", "2026-01-02"), ("b", "bb", "model", "2026-01-02"), ("a", "aa", "whole", "2026-01-02"),
    ]  # fmt: skip
    assert found[0].samples.nanoseconds.tolist() == [5, 7, 6]
    assert found[0].samples.rounds.tolist() == [0, 0, 1]


def test_the_calls_of_preprocessing_are_kept_too(tmp_path):
    timed = Comparison("a", {"a": Samples(np.array([5, 7]), np.array([0, 1]))}, {})
    samples.save(tmp_path / "s.npz", timed, timed, {"a": "aa"}, date="2026-01-02", preprocess=timed)
    assert [each.scenario for each in samples.load(tmp_path / "s.npz")] == ["model", "whole", "preprocess"]


def test_another_file_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", logits=np.zeros(3))
    (tmp_path / "text.npz").write_text("text")
    for name in ("other.npz", "text.npz", "nothing.npz"):
        with pytest.raises(BenchError, match=f"{name}: no samples of a benchmark"):
            samples.load(tmp_path / name)


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    empty = Comparison("a", {}, {})
    with pytest.raises(BenchError, match=r"s\.npz: samples cannot be written"):
        samples.save(tmp_path / "nowhere" / "s.npz", empty, empty, {}, date="")
