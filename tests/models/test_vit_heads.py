import pytest
import timm
import torch
import torch.nn.functional as F

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.models import vit_heads

SMALL = {"depth": 1, "width": 64}
SMALL_SWIN = {"depths": [1, 1, 1, 1], "width": 48}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def unsettle(net):
    """Norms, biases and scalars away from the values that would hide them."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    for parameter in net.parameters():
        if parameter.ndim <= 1:
            torch.nn.init.normal_(parameter, 0.7, 0.3)
    return net.eval()


def test_pooling_commutes_with_the_projection_of_the_convolutional_branch():
    net = unsettle(vit_heads.vit_b16_cnn(**SMALL)).double()
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    projection = net.project.weight[:, :, None, None]
    with torch.inference_mode():
        branch = F.conv2d(net.convolutions(x), projection, net.project.bias).mean((2, 3))
        expected = net.head(net.token_weight * net.backbone(x) + net.convolution_weight * branch)
        torch.testing.assert_close(net(x), expected, atol=1e-10, rtol=0)


def test_both_branches_weigh_the_same_to_begin_with():
    net = vit_heads.vit_b16_cnn(**SMALL)
    assert (net.token_weight.item(), net.convolution_weight.item()) == (1.0, 1.0)


def test_the_head_reads_the_class_token_behind_the_last_norm():
    net = unsettle(vit_heads.vit_b16_mlp(**SMALL))
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        tokens = net.backbone.forward_features(x)
        assert tokens.shape == (2, 1 + 14 * 14, 64)
        torch.testing.assert_close(net(x), net.head(tokens[:, 0]))


def test_the_head_reads_the_mean_of_the_last_tokens_of_swin():
    net = unsettle(vit_heads.swin_tiny_mlp(**SMALL_SWIN))
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        tokens = net.backbone.forward_features(x)
        assert tokens.shape == (1, 7, 7, 8 * 48)
        mean = sum(tokens[0].reshape(49, -1)) / 49
        torch.testing.assert_close(net(x), net.head(mean[None]), atol=1e-5, rtol=1e-5)


def test_freezing_the_backbone_leaves_the_head_alone():
    net = vit_heads.vit_b16_mlp(**SMALL)
    own = {name.partition(".")[0] for name, _ in net.named_parameters()}
    assert own == {"backbone", "head"}


def test_a_backbone_is_the_one_of_timm():
    net = vit_heads.vit_b16_mlp(depth=2, width=128).eval()
    plain = timm.create_model("vit_base_patch16_224", num_classes=0, depth=2, embed_dim=128, num_heads=2).eval()
    plain.load_state_dict(net.backbone.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(net.backbone(x), plain(x))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit-b16-mlp", {"depth": 6, "pretrained": True}, r"no pretrained weights for depth = 6 \(12\): set"),
        ("vit-b16-cnn", {"width": 384, "pretrained": True}, r"no pretrained weights for width = 384 \(768\)"),
        ("swin-tiny-mlp", {"depths": [2, 2, 2, 2], "pretrained": True}, r"for depths = \(2, 2, 2, 2\) \(\(2, 2, 6, 2\)\)"),
        ("vit-b16-mlp", {"width": 100}, "vit-b16-mlp: `width` must be a multiple of 64, .* got 100"),
    ],
)
def test_shapes_without_pretrained_weights_are_refused_before_anything_is_downloaded(name, arguments, message):
    with pytest.raises(ModelError, match=message):
        models.create(DetectorSpec(name=name, arguments=arguments))
