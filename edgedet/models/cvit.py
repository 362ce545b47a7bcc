"""The two networks that are called CViT; the RAM-Net study, whose baseline one of them is, does not say which.

`cvit-compact` is the Compact Vision Transformer, a small ViT that pools its sequence: the light network of the study's words.
Source: Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers", 2021 (CVT-7, with patches of 16 pixels).

`cvit-conv` is the Convolutional Vision Transformer, which detectors of deepfakes are compared with: a VGG-like trunk and a
transformer over one token. Source: Wodajo and Atnafu, "Deepfake Video Detection Using Convolutional Vision Transformer", 2021.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from edgedet.models.blocks import conv_bn_relu
from edgedet.models.layout import Layout, Part, Units
from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess


class SequencePool(nn.Module):
    """A mean of tokens weighted by a softmax over them, (B, N, width) -> (B, width). Source: Hassani et al., section 3.2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)

    def layout(self) -> Layout:
        """A channel goes through it, and has one weight in it."""
        return Layout(through=Units(self.score.in_features, (Part("score", 1),)))

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.softmax(self.score(x), dim=1)
        return (shares.transpose(1, 2) @ x).squeeze(1)


class CompactTransformer(nn.Module):
    """(B, 3, side, side) -> (B, 2), classes (real, fake); 3,948,035 parameters at 256 pixels.

    Blocks are pre-norm, as in the paper. (The released code norms the sequence itself, between attention and MLP.)
    """

    def __init__(self, *, side: int, patch: int = 16, width: int = 256, depth: int = 7, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.empty(1, (side // patch) ** 2, width))
        dropped = [0.1 * position / max(1, depth - 1) for position in range(depth)]
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio=2, attn_drop=0.1, drop_path=share) for share in dropped))
        self.norm = nn.LayerNorm(width)
        self.pool = SequencePool(width)
        self.head = nn.Linear(width, 2)
        nn.init.trunc_normal_(self.positions, std=0.2)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.as_tensor(self.patches(x)).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.pool(self.norm(self.blocks(tokens + self.positions))))
        return logits


_GROUPS = ((32, 3), (64, 3), (128, 3), (256, 4), (512, 4))
"""Channels and number of the convolutions before each max-pool."""


class WideAttention(nn.Module):
    """Attention over (B, N, width) whose scores are divided by the root of the whole width, not of a head's part of it."""

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = heads, width // heads, width**-0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def layout(self) -> Layout:
        """Rows of `qkv` are (3, heads, width of a head), columns of `proj` are (heads, width of a head)."""
        width = self.head_dim
        return Layout(
            reads=Units(self.qkv.in_features, (Part("qkv", 1),)),
            gives=Units(self.proj.out_features, (Part("proj", 0),)),
            heads=Units(self.num_heads, (Part("qkv", 0, width), Part("proj", 1, width))),
            head_width=width,
        )

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=self.scale)
        return torch.as_tensor(self.proj(mixed.transpose(1, 2).flatten(2)))


class WideBlock(nn.Module):
    """Pre-norm attention and MLP over (B, N, width)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), WideAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.as_tensor(self.attention(self.norm1(x)))
        return x + torch.as_tensor(self.mlp(self.norm2(x)))


class ConvTransformer(nn.Module):
    """(B, 3, side, side) -> (B, 2), classes (real, fake); 88,987,810 parameters at 224 pixels, 10.8 million in the trunk.

    The trunk's whole map, (512, 7, 7) there, is one patch, so the transformer sees two tokens: the class token and the image.
    """

    def __init__(self, *, side: int, width: int = 1024, depth: int = 6, hidden: int = 2048) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels, count in _GROUPS:
            for _ in range(count):
                layers.append(conv_bn_relu(inputs, channels))
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.trunk = nn.Sequential(*layers)
        self.embed = nn.Linear(inputs * (side // 2 ** len(_GROUPS)) ** 2, width)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 2, width))
        self.blocks = nn.Sequential(*(WideBlock(width, hidden) for _ in range(depth)))
        self.hidden = nn.Linear(width, hidden)
        self.head = nn.Linear(hidden, 2)
        for tokens in (self.class_token, self.positions):
            nn.init.trunc_normal_(tokens, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        image = self.embed(self.trunk(x).flatten(1)).unsqueeze(1)
        tokens = torch.cat([self.class_token.expand(image.shape[0], -1, -1), image], dim=1) + self.positions
        logits: Tensor = self.head(torch.relu(self.hidden(self.blocks(tokens)[:, 0])))
        return logits


def cvit_compact(*, side: int = 256) -> CompactTransformer:
    """The Compact Vision Transformer for images of `side` pixels, a multiple of 16.

    Raises:
        ValueError: another side.
    """
    _require_multiple(side, 16)
    return CompactTransformer(side=side)


def cvit_conv(*, side: int = 224) -> ConvTransformer:
    """The Convolutional Vision Transformer for images of `side` pixels, a multiple of 32.

    Raises:
        ValueError: another side.
    """
    _require_multiple(side, 32)
    return ConvTransformer(side=side)


def _require_multiple(side: int, step: int) -> None:
    if side <= 0 or side % step:
        raise ValueError(f"`side` must be a multiple of {step}, got {side}")


DETECTORS: Detectors = {
    "cvit-compact": Detector(
        cvit_compact,
        "Hassani et al., 2021",
        Preprocess(height=256, width=256),
        own_size=True,
        int8_notes="attention and the pooling of the sequence stay in float",
    ),
    "cvit-conv": Detector(
        cvit_conv,
        "Wodajo and Atnafu, 2021",
        Preprocess(height=224, width=224),
        own_size=True,
        int8_notes="attention stays in float, and for TensorRT every layer of one token",
    ),
}
