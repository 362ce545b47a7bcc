import pytest
import torch

from edgedet.models import gram
from edgedet.models.gram import GramBranch, GramMatrix


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_the_gram_matrix_is_the_mean_product_of_two_channels():
    x = torch.randn(2, 5, 4, 3)
    found = GramMatrix()(x)
    assert found.shape == (2, 1, 5, 5)
    for image in range(2):
        for one in range(5):
            for other in range(5):
                expected = (x[image, one] * x[image, other]).sum() / (5 * 4 * 3)
                torch.testing.assert_close(found[image, 0, one, other], expected)


def test_the_gram_matrix_of_a_large_image_stays_inside_half_precision():
    x = torch.full((1, 32, 256, 256), 4.0)
    half = GramMatrix()(x.half())
    assert torch.isfinite(half).all()
    torch.testing.assert_close(half.float(), torch.full((1, 1, 32, 32), 16 / 32), atol=2e-3, rtol=0)


def test_texture_does_not_depend_on_where_it_is():
    branch = GramBranch(3).eval()
    tile = torch.randn(1, 3, 8, 8)
    # Repeated both ways and rolled, the inner part of the map is the same multiset of positions.
    image = tile.repeat(1, 1, 8, 8)
    gram_of = torch.nn.Sequential(branch.textures, torch.nn.ZeroPad2d(-8), branch.gram)
    torch.testing.assert_close(gram_of(image), gram_of(image.roll((3, 5), (2, 3))))


def test_six_branches_read_the_image_the_stem_and_four_maps_of_the_trunk():
    net = gram.gram_net().eval()
    seen = []
    for branch in net.branches:
        branch.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[1:])))
    with torch.inference_mode():
        assert net(torch.randn(1, 3, 64, 64)).shape == (1, 2)
    assert seen == [(3, 64, 64), (64, 32, 32), (64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4)]
    assert net.hidden.in_features == 512 + 6 * 32 == 704
