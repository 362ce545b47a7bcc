"""The work of a network against operators counted by hand."""

import pytest
import timm
import torch
from timm.models.vision_transformer import Block
from torch import nn

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, DetectorSpec, Manifest
from edgedet.errors import ModelError
from edgedet.models import work
from edgedet.models.blocks import conv_bn_relu
from edgedet.models.macs import of_pass
from edgedet.preprocess import Preprocess


def test_a_convolution_reads_its_input_and_its_weights_and_writes_its_output():
    found = work.of_pass(conv_bn_relu(3, 16, stride=2), torch.zeros(1, 3, 8, 8))
    assert found.macs == found.convolution_macs == 4 * 4 * 16 * 3 * 9
    assert (found.grouped_macs, found.attention_macs, found.kernels) == (0, 0, 1)  # BatchNorm and ReLU are part of it
    assert (found.weights, found.elements) == (16 * 3 * 9, 3 * 8 * 8 + 16 * 4 * 4)


def test_convolutions_with_groups_are_told_apart():
    found = work.of_pass(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)), torch.zeros(1, 8, 5, 5))
    assert (found.grouped_macs, found.convolution_macs) == (3 * 3 * 8 * 9, 3 * 3 * 8 * 9 + 3 * 3 * 8 * 4)


def test_attention_leaves_its_scores_where_they_are():
    tokens, width, heads = 100, 32, 4
    found = work.of_pass(Block(dim=width, num_heads=heads, mlp_ratio=2), torch.zeros(1, tokens, width))
    assert found.attention_macs == 2 * tokens**2 * width
    queries_and_keys = values_and_sums = 2 * tokens * width
    linear = tokens * ((width + 3 * width) + (width + width) + 2 * (width + 2 * width))
    norms = 2 * 2 * tokens * width
    assert found.elements == queries_and_keys + values_and_sums + linear + norms
    assert found.kernels == 2 + 4 + 2


def test_a_gate_and_a_concatenation_are_kernels_and_an_addition_is_none():
    class Mixed(nn.Module):
        def forward(self, x):
            gated = x * x.mean((2, 3), keepdim=True)
            return torch.cat([gated, x + x], 1)

    found = work.of_pass(nn.Sequential(nn.Conv2d(2, 4, 1), Mixed()), torch.zeros(1, 2, 3, 3))
    assert found.kernels == 1 + 1 + 1 + 1  # convolution, mean, gate, concatenation
    assert found.elements == (18 + 36) + (36 + 4) + (36 + 36) + (72 + 72)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_its_multiply_accumulates_are_those_of_the_one_definition(name):
    with torch.device("meta"):
        net, image = timm.create_model(name), torch.zeros(1, 3, 224, 224)
    assert work.of_pass(net, image).macs == of_pass(net, image)


def test_of_an_artifact_the_shapes_are_enough(tmp_path):
    spec, preprocess = DetectorSpec(name="edge32", arguments={"width": 8}), Preprocess(height=32, width=32)
    with artifacts.writing(tmp_path / "a") as draft:
        (draft.path / "weights.safetensors").write_bytes(b"not read")
        draft.manifest = Manifest(kind="checkpoint", stage="train", detector=spec, preprocess=preprocess)
    found = work.of_artifact(Artifact.load(tmp_path / "a"))
    assert found.weights == 8 * 3 * 9 + 8 * 8 * 9 + (8 * 16 + 16 * 16) * 9 + (16 * 24 + 24 * 24) * 9 + 24
    assert found.kernels == 1 + 6 + 1 + 1  # pixels to float, convolutions, the mean over places, the last layer


def test_images_of_any_size_are_no_one_amount_of_work(tmp_path):
    with artifacts.writing(tmp_path / "a") as draft:
        preprocess = Preprocess(geometry="native", height=32, width=32)
        draft.manifest = Manifest(kind="checkpoint", stage="train", detector=DetectorSpec(name="spai"), preprocess=preprocess)
    with pytest.raises(ModelError, match="images of any size"):
        work.of_artifact(Artifact.load(tmp_path / "a"))
