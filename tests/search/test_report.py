"""What is shown of a search: the front first, the chosen one marked, estimates marked, and what came nearest."""

import io
import math
import re

import msgspec
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tiny_search import result

from edgedet.search import report
from edgedet.search.halving import Limits
from edgedet.search.result import Failure
from edgedet.search.run import Search

FAST, GOOD, WORSE = result("fast", ms=0.5), result("good", worst=0.95), result("worse", worst=0.8, ms=3.0)


def found(*results, chosen=None, **more) -> Search:
    return Search(results={each.name: each for each in results}, chosen=chosen, **more)


def text(search: Search) -> str:
    screen = io.StringIO()
    Console(width=200, file=screen).print(report.table(search))
    return screen.getvalue()


def test_the_front_comes_first_and_the_chosen_is_marked():
    shown = text(found(WORSE, GOOD, FAST, chosen=GOOD))
    lines = [line for line in shown.splitlines() if "-int8" in line]
    assert [line.split()[1] for line in lines] == ["fast-int8", "good-int8", "worse-int8"]
    assert "good-int8 (chosen)" in lines[1]
    assert "95.00" in lines[1]
    assert "0.50 [1.00] up2" in lines[1]


def test_a_candidate_with_a_failed_gate_is_marked():
    assert "lost-int8 (a gate fails)" in text(found(result("lost", failed=("auc",)), FAST))


def test_an_estimate_carries_its_mark_and_its_error():
    shown = text(found(result("far", ms=2.0, error=0.25)))
    assert "2‡ +25 % p90" in shown
    assert "10‡" in shown
    assert "‡" not in text(found(FAST))


def test_energy_is_shown_where_it_was_measured(tmp_path):
    search = found(result("measured", mj=0.25), FAST)
    assert "mJ" in text(search)
    assert re.search(r"measured-int8 .* 0\.25 ", text(search))
    assert "mJ" not in text(found(FAST))
    report.plot(search, Limits(latency_ms=1.0), tmp_path / "both.png")
    report.plot(found(FAST), Limits(latency_ms=1.0), tmp_path / "one.png")
    two, one = (np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("both.png", "one.png"))
    assert (two[:, 500:540].min(axis=1) < 128).sum() > 300, "the axis of a second panel"
    assert (one[:, 500:540].min(axis=1) < 128).sum() < 300


def test_the_record_is_plain_data_with_everything_in_it():
    failure = Failure(name="bad-int8", rung=0, reason="it does not compile")
    search = found(WORSE, GOOD, FAST, chosen=GOOD, failures={"bad-int8": failure}, notes=["round 2 of worse left out"])
    said = msgspec.json.decode(msgspec.json.encode(report.record(search, Limits(latency_ms=1.0))))
    assert (said["chosen"], said["front"]) == ("good-int8", ["fast-int8", "good-int8"])
    assert said["limits"] == {"latency_ms": 1.0, "size_kb": None, "drop": None, "speedup": None}
    assert len(said["candidates"]) == 3
    assert said["failures"][0]["reason"] == "it does not compile"
    assert said["notes"] == ["round 2 of worse left out"]


def test_nothing_fits_names_the_nearest_and_each_limit_that_it_misses():
    said = report.nothing_fits(found(FAST, WORSE), Limits(latency_ms=0.4, size_kb=100, drop=0.009, speedup=12))
    assert "nearest is fast-int8 in candidates/fast" in said
    assert "0.5 ms, 0.4 allowed" in said
    assert "10 times as fast as the teacher, 12 wanted" in said
    assert "lost up to 1.00 points against the teacher (up2), 0.90 allowed" in said
    assert "kB" not in said
    assert "\n" not in said


def test_a_gate_that_failed_is_named():
    lost = result("lost", failed=("balanced_accuracy drop against ancestor <= 0.02 (worst generator, clean)",))
    assert "(worst generator, clean) failed" in report.nothing_fits(found(lost), Limits(latency_ms=10))


def test_where_nothing_was_made_the_first_reason_is_given():
    failure = Failure(name="bad-int8", rung=0, reason="it does not compile")
    assert "bad-int8: it does not compile" in report.nothing_fits(found(failures={"bad-int8": failure}), Limits(drop=0.1))
    assert "raise --budget-minutes" in report.nothing_fits(found(), Limits(drop=0.1))


@pytest.mark.parametrize("results", [(FAST, GOOD, WORSE), (FAST,), (msgspec.structs.replace(FAST, drop_bound=math.inf),)])
def test_the_plot_is_a_picture_with_the_chosen_in_red(tmp_path, results):
    report.plot(found(*results, chosen=results[0]), Limits(latency_ms=1.0), tmp_path / "front.png")
    pixels = np.asarray(Image.open(tmp_path / "front.png").convert("RGB")).astype(int)
    red = (pixels[..., 0] > pixels[..., 1] + 60) & (pixels[..., 0] > pixels[..., 2] + 60)
    assert pixels.shape == (600, 960, 3)
    assert red.sum() > 30
