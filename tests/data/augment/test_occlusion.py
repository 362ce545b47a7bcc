import numpy as np
import pytest
from fixed_draws import Highest

from edgedet.data.augment import Augment
from edgedet.data.augment.draws import Draws
from edgedet.data.augment.occlusion import GREY, hidden, hide


def test_patches_lie_on_a_grid_and_are_whole():
    where = hidden((32, 48), Augment(mask=1.0, mask_patch=8), Draws(np.random.default_rng(0), 20), 20)
    blocks = where.reshape(20, 4, 8, 6, 8).swapaxes(2, 3)
    assert (blocks.all(axis=(3, 4)) == blocks.any(axis=(3, 4))).all()


def test_up_to_a_share_of_the_patches_of_a_share_of_the_images():
    """SAFE's: half of the images, up to three quarters of their patches, each share as likely."""
    where = hidden((64, 64), Augment(mask=0.5, mask_patch=16), Draws(np.random.default_rng(0), 2000), 2000)
    shares = where.mean(axis=(1, 2))
    assert shares.max() <= 0.75
    assert (shares > 0).mean() == pytest.approx(0.5 * (1 - 1 / 12), abs=0.05)
    assert shares[shares > 0].mean() == pytest.approx(0.375, abs=0.05)
    assert where.mean(axis=0).std() < 0.02, "every place is as likely"


def test_the_number_of_patches_is_rounded_down_and_those_at_the_edge_may_be_cut():
    where = hidden((20, 20), Augment(mask=1.0, mask_patch=16, mask_share=0.5), Highest(3), 3)
    sizes = {16 * 16, 16 * 4, 4 * 4}
    for one in where:
        patches = [one[:16, :16], one[:16, 16:], one[16:, :16], one[16:, 16:]]
        assert [patch.all() for patch in patches].count(True) == 2
        assert {int(patch.sum()) for patch in patches} <= sizes | {0}


def test_a_cutout_is_one_square_inside_the_image():
    where = hidden((10, 14), Augment(cutout=4), Draws(np.random.default_rng(0), 30), 30)
    for one in where:
        rows, columns = np.nonzero(one)
        assert len(rows) == 16
        assert (np.ptp(rows), np.ptp(columns)) == (3, 3)


def test_what_is_larger_than_the_image_hides_it():
    assert hidden((4, 4), Augment(cutout=9), Highest(2), 2).all()


def test_hidden_is_grey_and_the_rest_is_left():
    images = np.full((2, 8, 8, 3), 7, np.uint8)
    where = hidden((8, 8), Augment(cutout=3, mask=1.0, mask_patch=4), Draws(np.random.default_rng(0), 2), 2)
    out = hide(images, where)
    assert (out[where] == GREY).all()
    assert (out[~where] == 7).all()
