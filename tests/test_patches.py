import numpy as np
import pytest

from edgedet.errors import ImageError
from edgedet.patches import cut, windows


def image(height, width):
    """Every pixel says where it is: row, column, 0."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (16, 16, [(0, 0), (0, 8), (8, 0), (8, 8)]),
        (17, 23, [(0, 0), (0, 8), (8, 0), (8, 8)]),  # what fills no patch is not read
        (8, 32, [(0, 0), (0, 8), (0, 16), (0, 24)]),
        (8, 8, [(0, 0)]),
        (15, 30, [(0, 0), (0, 22), (7, 0), (7, 22), (3, 11)]),  # a grid would have three
        (9, 8, [(0, 0), (0, 0), (1, 0), (1, 0), (0, 0)]),
    ],
)
def test_a_grid_is_read_or_else_corners_and_middle(height, width, expected):
    assert windows(height, width, 8) == expected


def test_patches_are_cut_where_the_windows_are():
    patches = cut(image(20, 33), 8)
    assert patches.shape == (8, 8, 8, 3)
    assert patches[:, 0, 0, :2].tolist() == [[0, 0], [0, 8], [0, 16], [0, 24], [8, 0], [8, 8], [8, 16], [8, 24]]
    np.testing.assert_array_equal(patches[5], image(20, 33)[8:16, 8:16])


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(ImageError, match="an image of 30x7 is smaller than a patch of 8x8"):
        cut(image(7, 30), 8)
