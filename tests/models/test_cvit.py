import math

import pytest
import torch

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.models import cvit
from edgedet.models.cvit import SequencePool, WideAttention
from edgedet.models.structure import count_parameters


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_a_sequence_is_pooled_by_weights_that_sum_to_one():
    pool, x = SequencePool(6).requires_grad_(False), torch.randn(2, 5, 6)
    for image in range(2):
        scores = [float((x[image, token] * pool.score.weight[0]).sum() + pool.score.bias[0]) for token in range(5)]
        total = sum(math.exp(score) for score in scores)
        expected = sum(math.exp(score) / total * x[image, token] for token, score in enumerate(scores))
        torch.testing.assert_close(pool(x)[image], expected)


def test_attention_is_scaled_by_the_whole_width():
    block, x = WideAttention(16, heads=2), torch.randn(1, 3, 16)
    q, k, v = (x[0] @ part.T for part in block.qkv.weight.chunk(3))
    mixed = torch.empty(3, 16)
    for head in (slice(0, 8), slice(8, 16)):
        shares = torch.softmax(q[:, head] @ k[:, head].T / math.sqrt(16), dim=1)
        mixed[:, head] = shares @ v[:, head]
    torch.testing.assert_close(block(x)[0], mixed @ block.proj.weight.T + block.proj.bias)


def test_the_compact_transformer_has_a_token_a_patch_and_no_class_token():
    net = cvit.cvit_compact(side=64).eval()
    assert net.positions.shape == (1, 16, 256)
    assert len(net.blocks) == 7
    assert (net.blocks[0].attn.num_heads, net.blocks[0].mlp.fc1.out_features) == (4, 512)
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 2)


@pytest.mark.parametrize(("name", "step"), [("cvit-compact", 16), ("cvit-conv", 32)])
def test_a_side_that_patches_do_not_fill_is_refused(name, step):
    with pytest.raises(ModelError, match=f"`side` must be a multiple of {step}, got 248"):
        models.create(DetectorSpec(name=name, arguments={"side": 248}))


def test_the_convolutional_transformer_makes_one_token_of_seventeen_convolutions():
    with torch.device("meta"):
        net = cvit.cvit_conv()
        assert net.trunk(torch.empty(1, 3, 224, 224)).shape == (1, 512, 7, 7)
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 2)
    convolutions = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [sum(c.out_channels == width for c in convolutions) for width in (32, 64, 128, 256, 512)] == [3, 3, 3, 4, 4]
    assert count_parameters(net.trunk) == pytest.approx(10.8e6, rel=0.005)  # as the paper says
    assert (net.embed.in_features, net.positions.shape) == (25_088, (1, 2, 1024))
