"""CvT-13: attention whose queries, keys and values come through depthwise convolutions, under an MLP head.

Source: Wu et al., "CvT: Introducing Convolutions to Vision Transformers", ICCV 2021, section 3 and table 2; as a detector
"AI-Generated Image Detection" (Dou, Xu, Zhang, Shen). Written from the papers' facts; the published weights' names are mapped
to ours when they are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.models import load_state_dict_from_hf
from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models.layout import Layout, Part, Units
from edgedet.models.table import ATTENTION_NOTE, HALF, Detector, Detectors, require_published
from edgedet.models.vit_heads import SOURCE, BackboneMlp
from edgedet.preprocess import Preprocess

HUB = "microsoft/cvt-13"
_DEPTHS, _WIDTHS = (1, 2, 10), (64, 192, 384)
_HEAD_WIDTH = 64
_MLP_RATIO = 4
_CHANNELS = (("conv", 0), ("norm", 0), ("linear", 1))  # of a projection, where a channel that it reads lies
_DROP_PATH = 0.1  # of the last block of the last stage, up to which the rate rises linearly; the other stages have none


class Projection(nn.Module):
    """Queries, keys or values: a depthwise 3x3 convolution, BatchNorm, a linear layer. Source: section 3.2.

    The class token has no place on the map: it goes to the linear layer as it is.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, width)

    def forward(self, grid: Tensor, token: Tensor | None) -> Tensor:
        """Map (B, C, h, w) and class token (B, 1, C) or none -> (B, tokens, C)."""
        tokens = _as_tokens(self.norm(self.conv(grid)))
        projected: Tensor = self.linear(tokens if token is None else torch.cat([token, tokens], dim=1))
        return projected


class ConvolutionalAttention(nn.Module):
    """Multi-head attention between convolutional projections, keys and values at half the resolution: (B, N, C) -> (B, N, C).

    The scores are divided by the root of the whole width, not of a head's, as the published weights were trained; that stays so
    when heads or channels are pruned.
    """

    def __init__(self, width: int, heads: int, *, with_token: bool) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = width**-0.5
        self.with_token = with_token
        self.query, self.key, self.value = Projection(width, 1), Projection(width, 2), Projection(width, 2)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """size: of the map whose positions the tokens are; the class token, if there is one, comes before them."""
        token, grid = (tokens[:, :1], tokens[:, 1:]) if self.with_token else (None, tokens)
        grid = _as_map(grid, size)
        q, k, v = (self._by_head(part(grid, token)) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        attended: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return attended

    def layout(self) -> Layout:
        """Which widths are one channel's or one head's, for pruning."""
        projections = ("query", "key", "value")
        width = self.output.in_features // self.num_heads
        rows = tuple(Part(f"{name}.linear", 0, width) for name in projections)
        channels = tuple(Part(f"{name}.{layer}", slot) for name in projections for layer, slot in _CHANNELS)
        return Layout(
            reads=Units(self.query.linear.in_features, channels),
            gives=Units(self.output.out_features, (Part("output", 0),)),
            heads=Units(self.num_heads, (*rows, Part("output", 1, width))),
            head_width=width,
        )

    def _by_head(self, tokens: Tensor) -> Tensor:
        """(B, tokens, C) -> (B, heads, tokens, C / heads)."""
        return tokens.reshape(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and beside a shortcut: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, drop_path: float, *, with_token: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = ConvolutionalAttention(width, width // _HEAD_WIDTH, with_token=with_token)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, _MLP_RATIO * width), nn.GELU(), nn.Linear(_MLP_RATIO * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), size))
        mixed: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return mixed


class Stage(nn.Module):
    """A convolutional embedding and blocks: (B, inputs, H, W) -> (B, width, h, w). Source: section 3.1.

    The last stage has a class token. Only the map is handed on, but its positions attend to that token.
    """

    def __init__(self, inputs: int, width: int, depth: int, *, first: bool, last: bool) -> None:
        super().__init__()
        kernel, stride, padding = (7, 4, 2) if first else (3, 2, 1)
        self.conv = nn.Conv2d(inputs, width, kernel, stride, padding)
        self.norm = nn.LayerNorm(width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if last else None
        most = _DROP_PATH if last else 0.0
        rates = [most * number / max(1, depth - 1) for number in range(depth)]
        self.blocks = nn.ModuleList([Block(width, rate, with_token=last) for rate in rates])

    def forward(self, x: Tensor) -> Tensor:
        grid: Tensor = self.conv(x)
        size = (grid.shape[2], grid.shape[3])
        tokens: Tensor = self.norm(_as_tokens(grid))
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, size)
        return _as_map(tokens if self.class_token is None else tokens[:, 1:], size)


class Cvt(nn.Module):
    """(B, 3, H, W) -> the mean of the last stage's map, (B, C)."""

    def __init__(self, depths: Sequence[int] = _DEPTHS, widths: Sequence[int] = _WIDTHS) -> None:
        super().__init__()
        shapes = list(zip((3, *widths[:-1]), widths, depths, strict=True))
        stages = [
            Stage(inputs, width, depth, first=number == 0, last=number == len(shapes) - 1)
            for number, (inputs, width, depth) in enumerate(shapes)
        ]
        self.stages = nn.Sequential(*stages)
        for name, parameter in self.named_parameters():
            if name.endswith("class_token") or (name.endswith("weight") and parameter.ndim == 2):
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        grid: Tensor = self.stages(x)
        return grid.mean((2, 3))


def cvt13_mlp(*, pretrained: bool = False, depths: Sequence[int] = _DEPTHS, widths: Sequence[int] = _WIDTHS) -> nn.Module:
    """CvT-13 under an MLP head; 19,940,674 parameters.

    pretrained: Microsoft's ImageNet-1k weights, from the hub.
    depths, widths: of another CvT, which has no pretrained weights; widths are multiples of 64.

    Raises:
        ModelError: what the hub has are not the weights of CvT-13.
        ValueError: another shape with pretrained weights, a stage without a depth, or a width that heads do not fill.
    """
    require_published(pretrained, depths=(tuple(depths), _DEPTHS), widths=(tuple(widths), _WIDTHS))
    if len(depths) != len(widths) or any(width % _HEAD_WIDTH for width in widths):
        raise ValueError(f"`widths` are multiples of {_HEAD_WIDTH}, one for each of `depths`; got {widths} and {depths}")
    cvt = Cvt(depths, widths)
    if pretrained:
        load_published(cvt, load_state_dict_from_hf(HUB, filename="model.safetensors"))
    return BackboneMlp(cvt, widths[-1])


def load_published(cvt: Cvt, published: Mapping[str, Tensor]) -> None:
    """Fill `cvt` from the hub's tensors; of those, the classifier and the norm before it have no place here.

    Raises:
        ModelError: a tensor is missing, is left over, or has another shape.
    """
    # Batches counted in training are of no use, and converted files may be without them.
    own = {name: tensor for name, tensor in cvt.state_dict().items() if not name.endswith("num_batches_tracked")}
    names = {published_name(name): name for name in own}
    unknown = [name for name in published if name not in names and not name.startswith(("classifier.", "layernorm."))]
    wrong = [
        f"{name} is {tuple(published[name].shape) if name in published else 'missing'}, expected {tuple(own[ours].shape)}"
        for name, ours in names.items()
        if name not in published or published[name].shape != own[ours].shape
    ]
    wrong += [f"{name} is left over" for name in unknown if not name.endswith("num_batches_tracked")]
    if wrong:
        raise ModelError(f"these are not the weights of {HUB}: {'; '.join(wrong[:3])}")
    cvt.load_state_dict({ours: published[name] for name, ours in names.items()}, strict=False)


def published_name(name: str) -> str:
    """What the hub calls our tensor `name`."""
    for pattern, theirs in _NAMES:
        name = re.sub(pattern, theirs, name)
    return f"cvt.encoder.{name}"


_ATTENTION = r"\.attention\.(query|key|value)\."
_PROJECTION = r".attention.attention.convolution_projection_\1.convolution_projection."
_NAMES = (
    (r"^(stages\.\d+)\.conv\.", r"\1.embedding.convolution_embeddings.projection."),
    (r"^(stages\.\d+)\.norm\.", r"\1.embedding.convolution_embeddings.normalization."),
    (r"\.class_token$", ".cls_token"),
    (r"\.blocks\.", ".layers."),
    (_ATTENTION + r"conv\.", _PROJECTION + "convolution."),
    (_ATTENTION + r"norm\.", _PROJECTION + "normalization."),
    (_ATTENTION + r"linear\.", r".attention.attention.projection_\1."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.0\.", ".intermediate.dense."),
    (r"\.mlp\.2\.", ".output.dense."),
)


def _as_tokens(grid: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return grid.flatten(2).transpose(1, 2)


def _as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h w, C) -> (B, C, h, w)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *size)


DETECTORS: Detectors = {
    "cvt13-mlp": Detector(cvt13_mlp, SOURCE, Preprocess(mean=HALF, std=HALF), classifier="head.out", int8_notes=ATTENTION_NOTE),
}
