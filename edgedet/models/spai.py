"""SPAI: how alike a frozen vision transformer finds an image, its low and its high frequencies, patch by patch.

Source: Karageorgiou et al., "Any-Resolution AI-Generated Image Detection by Spectral Learning", CVPR 2025. Each patch goes
through one transformer three times (as it is, low-pass, high-pass); what the three answers of every block have in common, and
the answers to the patch itself, are its features. Attention over the patches of an image makes them one logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models import structure
from edgedet.models.patchwise import Patchwise
from edgedet.models.spectral import Bands
from edgedet.models.table import IMAGENET_MEAN, IMAGENET_STD, Detector, Detectors
from edgedet.preprocess import Preprocess

_PAIRS = ((0, 1), (0, 2), (1, 2))  # image and low, image and high, low and high
_UNREAD = ("norm.", "fc_norm.", "head.")  # what a transformer has behind its last block
_TINY = 1e-12  # keeps the gradient of a root of zero finite


def spai(
    *,
    backbone: str = "vit_base_patch16_224",
    pretrained: bool | str = False,
    depth: int | None = None,
    side: int = 224,
    radius: int = 16,
    width: int = 1024,
    heads: int = 12,
    head_width: int = 128,
    dropout: float = 0.5,
) -> Patchwise:
    """One logit from patches; 132,628,761 parameters, 85,797,120 of them the transformer's, which training leaves frozen.

    backbone: a vision transformer of timm; depth: its blocks, all when None.
    pretrained: true downloads timm's ImageNet weights; a path is a safetensors file with the transformer's own, as published
        after masked frequency modelling (Xie et al., ICLR 2023), on which SPAI builds.
    side: of a patch in pixels; radius: of the low-pass in frequencies.
    width: of the projections; heads, head_width: of the attention over patches.

    Raises:
        ModelError: `backbone` is no vision transformer, or the file's tensors are not its.
    """
    vit = _transformer(backbone, pretrained=pretrained, depth=depth, side=side)
    encoder = Encoder(vit, side=side, radius=radius, width=width, dropout=dropout)
    aggregator = Aggregator(encoder.features, heads=heads, head_width=head_width, dropout=dropout)
    return Patchwise(encoder, aggregator, side)


def spai_tiny(
    *,
    pretrained: bool | str = False,
    depth: int = 12,
    side: int = 224,
    radius: int = 16,
    width: int = 256,
    dropout: float = 0.5,
) -> Patchwise:
    """:func:`spai` on ViT-Ti/16 with narrow projections, 8,797,273 parameters; not published, of a size for small devices."""
    return spai(
        backbone="vit_tiny_patch16_224",
        pretrained=pretrained,
        depth=depth,
        side=side,
        radius=radius,
        width=width,
        heads=4,
        head_width=64,
        dropout=dropout,
    )


class Projector(nn.Module):
    """LayerNorm, Linear, GELU, Linear, LayerNorm, with dropout before each Linear and after the last: (..., I) -> (..., O)."""

    def __init__(self, inputs: int, outputs: int, *, dropout: float, input_norm: bool = True) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(inputs) if input_norm else nn.Identity()
        self.hidden = nn.Linear(inputs, outputs)
        self.out = nn.Linear(outputs, outputs)
        self.norm_out = nn.LayerNorm(outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        x = F.gelu(self.hidden(self.dropout(self.norm_in(x))))
        return torch.as_tensor(self.norm_out(self.dropout(self.out(self.dropout(x)))))


class Encoder(nn.Module):
    """Patches in [0, 1], (P, 3, side, side) -> features (P, 6 L + width), with L the transformer's blocks."""

    def __init__(self, vit: VisionTransformer, *, side: int, radius: int, width: int, dropout: float) -> None:
        super().__init__()
        blocks = len(vit.blocks)
        self.front_end = Bands(side, radius, IMAGENET_MEAN, IMAGENET_STD)
        self.backbone = vit
        self.projectors = nn.ModuleList(Projector(vit.embed_dim, width, dropout=dropout) for _ in range(blocks))
        self.summary = Projector(2 * width, width, dropout=dropout, input_norm=False)
        self.importance = nn.Parameter(torch.randn(blocks, width))
        self.image = Projector(width, width, dropout=dropout)
        self.features = 6 * blocks + width

    def forward(self, x: Tensor) -> Tensor:
        """(P, 3, side, side) in [0, 1] -> (P, F).

        First the 6 L figures of similarity: for each block image and low, image and high, low and high, each as mean and
        deviation. Then what the patch itself gives.
        """
        similarity, summaries = [], []
        for projector, tokens in zip(self.projectors, self.tokens(x), strict=True):
            bands = projector(tokens).unflatten(0, (3, -1))  # (3, P, T, width)
            similarity.append(mean_and_deviation(cosines(bands), dim=2).flatten(1))
            summaries.append(mean_and_deviation(bands[0], dim=1).flatten(1))
        summary = self.summary(torch.stack(summaries, dim=1))  # (P, L, width)
        weighted = (summary * self.importance.softmax(dim=0)).sum(1)
        return torch.cat([*similarity, self.image(weighted)], dim=1)

    def tokens(self, x: Tensor) -> list[Tensor]:
        """The patch tokens of every block for image, low band and high band: L of (3 P, T, D)."""
        bands = self.front_end(x)
        found = self.backbone.forward_intermediates(bands, norm=False, output_fmt="NLC", intermediates_only=True)
        return cast(list[Tensor], found)


class Aggregator(nn.Module):
    """Spectral context attention: one learned query per head asks all patches, (B, P, F) -> (B, 1)."""

    def __init__(self, features: int, *, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        inner, hidden = heads * head_width, 3 * features
        self.heads, self.scale = heads, head_width**-0.5
        self.key_value = nn.Linear(features, 2 * inner, bias=False)
        self.query = nn.Parameter(torch.randn(heads, 1, head_width))
        self.out = nn.Linear(inner, features, bias=False)
        self.norm = nn.LayerNorm(features)
        self.head = nn.Sequential(
            *(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)),
        )
        self.classifier = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, F) -> (B, 1)."""
        both = self.key_value(x).unflatten(2, (2, self.heads, -1))
        key, value = both.permute(2, 0, 3, 1, 4)  # each (B, heads, P, head_width)
        weights = (self.query @ key.transpose(-1, -2) * self.scale).softmax(dim=-1)  # (B, heads, 1, P)
        context = self.norm(self.out((weights @ value).flatten(1)))
        return torch.as_tensor(self.classifier(self.head(context)))


def cosines(bands: Tensor) -> Tensor:
    """(3, P, T, D) of image, low band and high band -> the cosine of each two of them, token by token (P, 3, T)."""
    unit = F.normalize(bands, dim=-1)
    return torch.stack([(unit[one] * unit[other]).sum(-1) for one, other in _PAIRS], dim=1)


def mean_and_deviation(x: Tensor, dim: int) -> Tensor:
    """The mean and the unbiased standard deviation over `dim`, side by side in its place (2 of them).

    Written out: exporters have lost `Tensor.std` (pytorch#141969).
    """
    mean = x.mean(dim, keepdim=True)
    square = ((x - mean) ** 2).sum(dim, keepdim=True) / (x.shape[dim] - 1)
    return torch.cat([mean, (square + _TINY).sqrt()], dim=dim)


def _transformer(name: str, *, pretrained: bool | str, depth: int | None, side: int) -> VisionTransformer:
    """The network of timm without what stands behind its last block."""
    if not timm.models.is_model_in_modules(name, {"vision_transformer"}):
        raise ModelError(f"`backbone` must be a vision transformer of timm, as vit_base_patch16_224, got {name!r}")
    vit = cast(VisionTransformer, timm.create_model(name, pretrained=pretrained is True, num_classes=0, img_size=side))
    blocks = len(vit.blocks)
    if depth is not None and not 1 <= depth <= blocks:
        raise ModelError(f"{name} has {blocks} blocks, `depth` is {depth}: give 1 to {blocks}")
    vit.prune_intermediate_layers([(depth or blocks) - 1], prune_norm=True)
    if isinstance(pretrained, str):
        _load(vit, Path(pretrained))
    return vit


def _load(vit: VisionTransformer, path: Path) -> None:
    """Take the weights of a safetensors file; blocks beyond the depth, and what is behind the last, are left out."""
    try:
        given = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}: give the transformer's weights as safetensors") from error
    beyond = tuple(f"blocks.{number}." for number in range(len(vit.blocks), 100))
    state = {name: tensor for name, tensor in _joined(given).items() if not name.startswith((*_UNREAD, *beyond))}
    problems = structure.same_shapes(vit, state)
    if problems:
        raise ModelError(f"{path}: is not of this transformer: {'; '.join(problems[:3])}")
    vit.load_state_dict(state)


def _joined(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases of queries and values that stand apart, as BEiT's and its descendants' do, in timm's one; keys have none."""
    state = dict(given)
    for name in [name for name in given if name.endswith(".q_bias")]:
        block = name.removesuffix("q_bias")
        query, value = state.pop(name), state.pop(f"{block}v_bias")
        state[f"{block}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return state


# Training reads crops of one size, two by two patches; the two graphs read photographs of any size as they are.
_INPUT = Preprocess(geometry="crop_only", height=448, width=448, fill="pad", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

DETECTORS: Detectors = {
    name: Detector(
        build,
        source,
        _INPUT,
        classifier="aggregator.classifier",
        front_end="low and high frequencies of each patch, by a Fourier low-pass written as matrix products",
        export_notes="one graph for one size, or an encoder and an aggregator for any (patches=true): docs/spai.md",
        int8_notes="the low-pass, attention cores, norms and similarities stay in float",
    )
    for name, build, source in (
        ("spai", spai, "Karageorgiou et al., CVPR 2025"),
        ("spai-tiny", spai_tiny, "after Karageorgiou et al., CVPR 2025"),
    )
}
