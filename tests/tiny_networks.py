"""Small networks of every kind that is pruned, with weights that all do something."""

import timm
import torch
from torch import nn

from edgedet.compress.groups import Found, Kind, find
from edgedet.models.cvit import ConvTransformer

ALL: tuple[Kind, ...] = ("channels", "mlp", "heads", "embedding")


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every scale, bias and running statistic at random: at their start many are 0 or 1, and nothing would depend on them."""
    source = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim < 2:
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.5, 0.5)
            tensor.copy_(torch.rand(tensor.shape, generator=source) * (high - low) + low)
    return net.eval()


def vit(**options) -> nn.Module:
    torch.manual_seed(0)
    given = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 1, **options}
    return lively(timm.create_model("vit_tiny_patch16_224", **given))


def swin() -> nn.Module:
    """Two stages: windows of 7, shifted in every other block, one merging of patches."""
    torch.manual_seed(0)
    return lively(timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, depths=(2, 2), num_heads=(2, 4), embed_dim=32, num_classes=1
    ))  # fmt: skip


def mobile() -> nn.Module:
    """An EfficientNet of five blocks, the last two of which are depthwise with squeeze-and-excitation gates."""
    torch.manual_seed(0)
    return lively(timm.create_model("test_efficientnet", num_classes=1))


def convolutional() -> nn.Module:
    """A convolutional trunk whose map is one token, and a class token beside it."""
    torch.manual_seed(0)
    return lively(ConvTransformer(side=32, width=48, depth=2, hidden=96))


SIDES = {vit: 32, swin: 56, mobile: 32, convolutional: 32}
HEADS = {vit: "head", swin: "head.fc", mobile: "classifier", convolutional: "head"}


def image(build, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, SIDES[build], SIDES[build], generator=torch.Generator().manual_seed(1))


def groups_of(build, net: nn.Module, kinds=ALL) -> Found:
    return find(net, image(build), classifier=HEADS[build], kinds=kinds)
