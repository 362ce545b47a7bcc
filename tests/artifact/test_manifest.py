"""What a manifest says makes sense, and scores come from its calibration."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.artifact import Calibration, Gate
from edgedet.errors import RecipeError
from edgedet.recipe import convert


def test_scores_are_calibrated_at_the_edge() -> None:
    calibration = Calibration(temperature=2.0, bias=1.0, thresholds={"half": 0.5, "fpr1": 0.9}, operating_point="fpr1")
    logits = np.array([-1.0, 3.0, 1000.0, -1000.0], np.float32)
    assert np.allclose(calibration.score(logits), [0.5, 1 / (1 + np.exp(-2.0)), 1.0, 0.0])
    assert calibration.verdict(logits).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": "auc"}, "one of `max_drop`, `max_value`, `min_value`, got none"),
        ({"metric": "auc", "max_drop": 0.1, "min_value": 0.1}, "one of"),
        ({"metric": "auc", "max_drop": 0.1, "against": "absolute"}, "`max_drop` compares"),
        ({"metric": "auc", "min_value": 0.9}, "`max_drop` compares"),
        ({"metric": "flip_rate", "max_drop": 0.1}, "`flip_rate`"),
        ({"metric": "aucc", "max_drop": 0.1}, "'aucc'"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        convert(given, Gate, source="gate.toml")
