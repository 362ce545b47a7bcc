import pytest
import torch
from torch import nn

from edgedet.errors import ModelError
from edgedet.models.patches import Alignment, PatchGrid, align, grid_of, judged, pooled

NINE, FIVE = PatchGrid(field=9, stride=8), PatchGrid(field=5, stride=2)


def pixels_of(grid: PatchGrid, patch: int) -> range:
    return range(grid.stride * patch, grid.stride * patch + grid.field)


@pytest.mark.parametrize("layers", [((3, 1), (3, 2), (3, 2), (1, 2)), ((3, 1), (3, 2)), ((5, 2), (1, 1), (2, 3))])
@pytest.mark.parametrize("side", [24, 41, 64])
def test_a_grid_is_what_convolutions_without_padding_see(layers, side):
    grid = PatchGrid.behind(layers)
    net = nn.Sequential(*(nn.Conv1d(1, 1, kernel, stride) for kernel, stride in layers))
    for layer in net:
        nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, side, requires_grad=True)
    out = net(x)[0, 0]
    assert len(out) == grid.count(side)
    for patch, logit in enumerate(out):
        (seen,) = torch.autograd.grad(logit, x, retain_graph=True)
        assert torch.nonzero(seen[0, 0]).flatten().tolist() == list(pixels_of(grid, patch))


def test_an_image_smaller_than_a_patch_has_none():
    assert (NINE.count(8), NINE.count(9), NINE.count(224), FIVE.count(224)) == (0, 1, 27, 110)


@pytest.mark.parametrize(
    ("student", "teacher"), [(FIVE, NINE), (NINE, NINE), (PatchGrid(1, 1), FIVE), (PatchGrid(3, 2), PatchGrid(11, 6))]
)
def test_a_students_patches_fill_its_teachers_and_have_their_centre(student, teacher):
    found = align(student, teacher)
    for patch in range(5):
        theirs = pixels_of(teacher, patch)
        within = [j for j in range(200) if set(pixels_of(student, j)) <= set(theirs)]
        assert within == list(range(found.step * patch, found.step * patch + found.count))
        ours = sorted({pixel for j in within for pixel in pixels_of(student, j)})
        assert (ours[0], ours[-1]) == (theirs[0], theirs[-1])
        middles = [(pixels_of(student, j)[0] + pixels_of(student, j)[-1]) / 2 for j in within]
        assert sum(middles) / len(middles) == (theirs[0] + theirs[-1]) / 2


def test_tiny_ladeda_has_three_patches_a_side_in_each_of_ladedas():
    assert align(FIVE, NINE) == Alignment(count=3, step=4)


@pytest.mark.parametrize(("height", "width"), [(32, 46), (64, 48), (9, 10)])
def test_gathered_logits_are_means_over_the_patches_within(height, width):
    student = torch.randn(2, FIVE.count(height), FIVE.count(width))
    found = align(FIVE, NINE).gather(student)
    assert found.shape == (2, NINE.count(height), NINE.count(width))

    def within(patch: int, count: int) -> list[int]:
        return [other for other in range(count) if set(pixels_of(FIVE, other)) <= set(pixels_of(NINE, patch))]

    for row in range(found.shape[1]):
        for column in range(found.shape[2]):
            rows, columns = within(row, student.shape[1]), within(column, student.shape[2])
            inside = [student[:, r, c] for r in rows for c in columns]
            assert len(inside) == 9
            torch.testing.assert_close(found[:, row, column], torch.stack(inside).mean(0))


@pytest.mark.parametrize(
    ("student", "why"),
    [(PatchGrid(11, 8), "no wider ones"), (PatchGrid(5, 3), "whose stride divides 8"), (PatchGrid(6, 2), "divides 8 and 3")],
)
def test_patches_without_a_common_centre_are_refused(student, why):
    with pytest.raises(ModelError, match=f"cannot be taught by patches of 9 every 8: .*{why}"):
        align(student, NINE)


def test_a_detector_without_patches_is_told_what_to_do():
    with pytest.raises(ModelError, match="npr has no logits of patches: take ladeda or ladeda-tiny, or set"):
        grid_of(nn.Linear(1, 1), "npr")


def test_the_mean_of_the_judged_patches_is_what_the_head_says_of_their_mean():
    head, features = nn.Linear(7, 1), torch.randn(2, 7, 3, 4)
    patches = judged(features, head)
    for row in range(3):
        for column in range(4):
            torch.testing.assert_close(patches[:, row, column], head(features[:, :, row, column])[:, 0])
    torch.testing.assert_close(patches.mean((1, 2)), head(features.mean((2, 3)))[:, 0])
    torch.testing.assert_close(pooled(features.movedim(1, -1)), features.mean((2, 3)))
    assert pooled(features[:, :, 0, 0]).shape == (2, 7)
