"""The file of works is what the script writes."""

import architectures
import pytest

from edgedet.bench import published

pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("name", "height", "width"), [("torchvision/resnet18", 480, 640), ("timm/vit_tiny_patch16_224", 224, 224)]
)
def test_a_row_counts_again_to_the_same(name, height, width):
    assert architectures.counted(name, height, width) == published.work_of(name, height, width)


def test_every_published_row_is_in_the_file():
    assert {(name, h, w) for name, h, w in architectures.wanted()} == set(published._works())
