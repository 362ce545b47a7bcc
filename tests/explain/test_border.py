"""The border figure: 36 % for a map without preference, an alarm for one that sits in the corners."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.explain.border import SHARE, Border, border_mass, cells, summary


def test_the_border_is_a_tenth_at_each_side():
    assert pytest.approx(0.36) == SHARE
    for shape in ((7, 7), (10, 10), (3, 5), (224, 224), (1, 1)):
        assert cells(*shape).mean() == pytest.approx(SHARE)
    ring = np.ones((10, 10))
    ring[1:9, 1:9] = 0
    assert np.allclose(cells(10, 10), ring)


@pytest.mark.parametrize("shape", [(4, 4), (7, 7), (14, 9), (100, 100)])
def test_cells_are_counted_by_area_as_on_the_enlarged_map(shape):
    """Every cell as 60 x 60 pixels, of which each is at the border or not."""
    heat = np.random.default_rng(0).random(shape).astype(np.float32)
    large = heat.repeat(60, 0).repeat(60, 1)
    y, x = ((np.arange(side) + 0.5) / side for side in large.shape)
    outside = (np.minimum(y, 1 - y) < 0.1)[:, None] | (np.minimum(x, 1 - x) < 0.1)[None]
    assert border_mass(heat) == pytest.approx(large[outside].sum() / large.sum(), abs=2e-3)


def test_only_what_speaks_for_fake_counts():
    heat = np.zeros((10, 10), np.float32)
    heat[0, 0], heat[5, 5], heat[9, 9] = 3, 1, -50
    assert border_mass(heat) == pytest.approx(0.75)
    assert border_mass(-np.abs(heat)) is None
    assert border_mass(np.zeros((3, 3), np.float32)) is None


def test_a_run_in_the_corners_raises_the_alarm_and_one_elsewhere_does_not():
    corners, middle = np.zeros((7, 7), np.float32), np.zeros((7, 7), np.float32)
    corners[[0, 0, 6, 6], [0, 6, 0, 6]] = 1
    middle[2:5, 2:5] = 1
    alarmed = summary([border_mass(corners), None], (7, 7))
    assert (alarmed.alarm, alarmed.images) == (True, 1)
    assert alarmed.said() == (
        "border: 91% of the mass in 36% of the area, mean of 1 maps: it looks at the edge of images, not at what is in them; "
        "train on crops and rotations"
    )
    calm = summary([border_mass(middle), border_mass(corners)], (7, 7))
    assert calm.alarm is False
    assert calm.said().endswith("the alarm is at 72%")


def test_what_cannot_be_told_is_not():
    assert summary([None, None], (7, 7)) == Border(None, 0, pytest.approx(0.91))
    assert summary([None], (7, 7)).alarm is None
    coarse = summary([0.6], (4, 4))  # at most 64 % of a cell in the corner lies at the border
    assert coarse.alarm is None
    assert "cannot raise the alarm" in coarse.said()
