"""What a candidate lost: a generator that is lost cannot hide in the mean."""

from pathlib import Path

import numpy as np
import pytest
from tiny_search import result

from edgedet import metrics
from edgedet.artifact import Calibration
from edgedet.data.index import Index, Row
from edgedet.evaluate import slices
from edgedet.search import halving
from edgedet.search.halving import Limits
from edgedet.search.judge import most_lost


@pytest.fixture
def index() -> Index:
    """1,000 photographs, 900 fakes of one generator and 40 of another."""
    names = [("camera", 0)] * 1000 + [("common", 1)] * 900 + [("rare", 1)] * 40
    rows = (
        Row(path=f"{number}.png", label=label, generator=name, split="val", sha256=f"{number:064x}")
        for number, (name, label) in enumerate(names)
    )
    return Index(Path("nothing-is-read"), tuple(rows))


def evaluated(index: Index, logits: np.ndarray):
    return {"clean": slices.of_logits(logits.astype(np.float32), Calibration(), index, n_boot=0)}


def test_a_planted_candidate_that_lost_one_generator_is_refused(index):
    teacher = np.random.default_rng(0).normal(size=len(index)) + np.where(index.labels == 1, 2.0, -2.0)
    planted = np.where(index.generators == "rare", -4.0, teacher)
    before, after = (teacher, Calibration()), (planted, Calibration())
    on_average = metrics.paired_difference("balanced_accuracy", index.labels, before, after)
    lost = most_lost(evaluated(index, planted), evaluated(index, teacher))
    assert on_average["high"] < 0.05 < 0.4 < lost.bound
    assert lost.slice == "rare"
    good, bad = result("good", worst=0.85, drop=0.04), result("bad", worst=0.9, drop=lost.bound)
    assert halving.chosen([good, bad], Limits(latency_ms=10, drop=0.05)) is good
    assert halving.chosen([bad], Limits(latency_ms=10, drop=0.05)) is None


def test_an_even_loss_is_judged_overall_or_where_it_is_least_certain(index):
    teacher = np.random.default_rng(0).normal(size=len(index)) + np.where(index.labels == 1, 2.0, -2.0)
    same = most_lost(evaluated(index, teacher), evaluated(index, teacher))
    assert (same.value, same.bound) == (0.0, 0.0)
