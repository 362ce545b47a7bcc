import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edgedet import metrics
from edgedet.artifact import Calibration, Gate
from edgedet.data.index import Index, Row
from edgedet.errors import DataError
from edgedet.evaluate import gates, slices, tables, thresholds

CALIBRATION = Calibration()


def make_index(n_real=300, split="val", **fakes) -> Index:
    names = [("camera", 0)] * n_real + [(name, 1) for name, count in (fakes or {"gan": 300}).items() for _ in range(count)]
    rows = (
        Row(path=f"{number}.png", label=label, generator=name, split=split, sha256=f"{number:064x}")
        for number, (name, label) in enumerate(names)
    )
    return Index(Path("nothing-is-read"), tuple(rows))



def evaluated(index, logits, condition="clean"):
    return {condition: slices.of_logits(np.asarray(logits, np.float32), CALIBRATION, index, condition=condition, n_boot=200)}


def good_logits(index, seed=0):
    return np.random.default_rng(seed).normal(size=len(index)) + np.where(index.labels == 1, 2.0, -2.0)


def one(gate, child, **others):
    (result,) = gates.check([gate], child, n_boot=200, **others)
    return result


def test_an_identical_child_passes_every_kind_of_gate():
    index = make_index(gan=200, diffusion=200)
    same = evaluated(index, good_logits(index))
    wanted = [
        Gate(metric="balanced_accuracy", max_drop=0.0, against="parent"),
        Gate(metric="auc", max_drop=0.0, scope="worst_generator"),
        Gate(metric="tpr_at_fpr5", max_drop=0.0),
        Gate(metric="flip_rate", against="absolute", max_value=0.01),
        Gate(metric="balanced_accuracy", against="absolute", min_value=0.9),
    ]
    results = gates.check(wanted, same, parent=same, ancestor=same, n_boot=100)
    assert [result.outcome for result in results] == ["passed"] * 5
    assert gates.failed(results) == []


def test_the_bound_is_tested_not_the_point():
    index = make_index(100, gan=100)
    logits = good_logits(index)
    worse = logits.copy()
    worse[150:153] = -5  # three of a hundred fakes are lost: a drop of 1.5 points
    drop = metrics.paired_difference("balanced_accuracy", index.labels, (logits, CALIBRATION), (worse, CALIBRATION))
    assert drop["value"] < 0.02 < drop["high"]
    result = one(
        Gate(metric="balanced_accuracy", max_drop=0.02), evaluated(index, worse), ancestor=evaluated(index, logits)
    )
    assert (result.outcome, result.limit) == ("failed", 0.02)
    assert result.value == pytest.approx(drop["value"])
    assert result.bound == pytest.approx(drop["high"], abs=0.01)


@pytest.mark.parametrize(
    ("bound", "outcome", "shown"),
    [
        (0.015, "passed", "bound 0.0150 "),
        (0.0149, "passed", "bound 0.0149 "),
        (0.01499, "passed", "bound 0.01499 "),
        (0.01504, "failed", "bound 0.01504 "),
        (0.0151, "failed", "bound 0.0151 "),
        (0.015000001, "failed", "bound 0.015000001 "),
        (float(np.nextafter(0.015, 1)), "failed", "bound 0.015000000000000001 "),
    ],
)
def test_a_bound_is_never_shown_on_the_other_side_of_its_limit(bound, outcome, shown):
    gate = Gate(metric="balanced_accuracy", max_drop=0.015)
    result = gates.GateResult(gate, outcome, gates.OVERALL, 0.0123456, bound, 0.015, 400)
    assert shown in result.text
    assert "<= 0.015 " in result.text
    assert "0.0123, " in result.text
    assert shown.split()[1] in rendered(gates.table([result]))


def test_a_generator_that_is_lost_fails_though_the_mean_holds():
    index = make_index(1000, common=900, rare=40)
    logits = good_logits(index)
    lost = np.where(index.generators == "rare", -4.0, logits)
    child, ancestor = evaluated(index, lost), evaluated(index, logits)
    overall = one(Gate(metric="balanced_accuracy", max_drop=0.05), child, ancestor=ancestor)
    worst = one(Gate(metric="balanced_accuracy", max_drop=0.05, scope="worst_generator"), child, ancestor=ancestor)
    assert (overall.outcome, worst.outcome, worst.slice) == ("passed", "failed", "rare")
    flips = Gate(metric="flip_rate", against="absolute", max_value=0.05, scope="worst_generator")
    result = one(flips, child, parent=ancestor)
    assert (result.outcome, result.slice, result.n) == ("failed", "rare", 40)


def test_flips_of_reals_are_a_slice_of_their_own():
    index = make_index(200, gan=200)
    logits = good_logits(index)
    flipped = np.where(index.labels == 0, -logits, logits)
    gate = Gate(metric="flip_rate", against="absolute", max_value=0.05, scope="worst_generator")
    result = one(gate, evaluated(index, flipped), parent=evaluated(index, logits))
    assert (result.outcome, result.slice) == ("failed", "(real)")


def test_no_flip_among_few_images_does_not_prove_a_low_rate():
    index = make_index(20, gan=20)
    same = evaluated(index, good_logits(index))
    result = one(Gate(metric="flip_rate", against="absolute", max_value=0.01), same, parent=same)
    assert (result.value, result.outcome) == (0, "failed")
    assert result.bound == pytest.approx(0.0876, abs=1e-3)  # Wilson, 0 of 40


def test_a_floor_holds_the_lower_bound():
    index = make_index(50, gan=50)
    logits = good_logits(index)
    child = evaluated(index, logits)
    low = child["clean"].overall["balanced_accuracy"]["low"]
    for floor, outcome in ((low - 0.03, "passed"), (low + 0.03, "failed")):
        gate = Gate(metric="balanced_accuracy", against="absolute", min_value=floor)
        assert one(gate, child).outcome == outcome


def test_what_cannot_be_measured_is_neither_passed_nor_failed():
    index = make_index(300, gan=300)
    same = evaluated(index, good_logits(index))
    few = one(Gate(metric="tpr_at_fpr1", max_drop=0.01), same, ancestor=same)
    alone = one(Gate(metric="auc", max_drop=0.01, against="parent"), same)
    assert few.outcome == alone.outcome == "not measured"
    assert "1,000 needed" in few.reason
    assert alone.reason == "there is no parent"
    assert "not measured" in alone.text
    assert gates.failed([few, alone]) == []


def test_gating_on_the_test_split_is_refused():
    index = make_index(split="test")
    tested = evaluated(index, good_logits(index))
    with pytest.raises(DataError, match="test is reported once"):
        gates.check([], tested)
    with pytest.raises(DataError, match="test is reported once"):
        gates.check([], {}, ancestor=tested)


def test_every_condition_must_have_been_evaluated():
    index = make_index()
    clean = evaluated(index, good_logits(index))
    wanted = [Gate(metric="auc", max_drop=0.01), Gate(metric="auc", max_drop=0.02, condition="web")]
    assert gates.conditions([*wanted, *wanted]) == ["clean", "web"]
    with pytest.raises(DataError, match="needs the artifact evaluated under 'web', it was evaluated under: clean"):
        gates.check(wanted, clean, ancestor=clean)
    web = {**clean, **evaluated(index, good_logits(index), condition="web")}
    with pytest.raises(DataError, match="needs the ancestor evaluated under 'web'"):
        gates.check(wanted, web, ancestor=clean)
    assert len(gates.check(wanted, web, ancestor=web, n_boot=20)) == 2


def test_models_must_have_seen_the_same_images():
    small, large = make_index(100, gan=100), make_index(100, gan=101)
    with pytest.raises(DataError, match="evaluate both on the same index"):
        one(
            Gate(metric="auc", max_drop=0.01),
            evaluated(small, good_logits(small)),
            ancestor=evaluated(large, good_logits(large)),
        )


def rendered(table) -> str:
    console = Console(width=300, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_tables_say_which_gate_failed_and_on_which_generator():
    index = make_index(300, common=200, rare=100)
    logits = good_logits(index)
    child, ancestor = evaluated(index, np.where(index.generators == "rare", -4, logits)), evaluated(index, logits)
    results = gates.check(
        [Gate(metric="auc", max_drop=0.01, scope="worst_generator"), Gate(metric="tpr_at_fpr1", max_drop=0.1)],
        child,
        ancestor=ancestor,
        n_boot=50,
    )
    text = rendered(gates.table(results))
    assert "auc drop against ancestor <= 0.01 (worst generator, clean)" in text
    assert "rare" in text
    assert "failed" in text
    assert "not measured: not measurable: 300 real images" in text
    assert results[0].text.startswith("auc drop against ancestor <= 0.01 (worst generator, clean): FAILS: ")


def test_an_evaluation_table_marks_the_worst_generator_and_the_majority():
    index = make_index(300, common=200, rare=100)
    logits = np.where(index.generators == "rare", -4, good_logits(index))
    (evaluation,) = evaluated(index, logits).values()
    text = rendered(tables.evaluation_table(evaluation))
    assert "rare (worst)" in text
    assert "guessing the larger class: accuracy 50.0 %" in text
    assert "not measurable: 300 real images, 1,000 needed for an FPR of 1%" in text
    assert tables.percent(evaluation.overall["auc"]) in text


def test_a_drift_table_shows_both_thresholds():
    index = make_index(300, gan=300)
    logits = good_logits(index)
    fitted = thresholds.fit({"clean": logits}, index.labels, fitted_on=None)
    text = rendered(tables.drift_table(thresholds.drift(CALIBRATION, fitted, logits, index.labels)))
    assert "TNR % refitted" in text
    assert f"{thresholds.cut(fitted, 'half'):.3f}" in text
