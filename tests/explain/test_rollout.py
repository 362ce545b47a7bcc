"""Attention rollout of a ViT against the paper's product, written out; who has none is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import timm
import torch

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ExplainError
from edgedet.explain.rollout import accumulate, has_rollout, rollout
from edgedet.explain.tokens import grid_of, transformer
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def vit(depth: int = 3, **arguments: object) -> PixelModel:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=1, depth=depth, img_size=(32, 48), **arguments)
    return PixelModel(net, Preprocess(height=32, width=48)).eval()


PIXELS = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def attentions(model: PixelModel) -> list[torch.Tensor]:
    """Of each block, from its own weights: softmax(q k / sqrt d), averaged over heads."""
    seen = []

    def note(block, given, _):
        attention, x = block.attn, block.norm1(given[0])
        b, n, _c = x.shape
        q, k, _ = attention.qkv(x).reshape(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        seen.append((q @ k.transpose(-2, -1) * attention.scale).softmax(-1).mean(1))

    handles = [block.register_forward_hook(note) for block in model.net.blocks]
    with torch.no_grad():
        model(PIXELS)
    for handle in handles:
        handle.remove()
    return seen


def test_it_is_the_row_of_the_class_token_in_the_product_of_the_blocks():
    model = vit()
    product = torch.eye(7)
    for attention in attentions(model):
        mixed = [0.5 * of_image + 0.5 * torch.eye(7) for of_image in attention]
        product = torch.stack([mix @ before for mix, before in zip(mixed, product.expand(2, 7, 7), strict=True)])
    logits, found = rollout(model, PIXELS)
    torch.testing.assert_close(found, product[:, 0, 1:].reshape(2, 2, 3), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(PIXELS), rtol=1e-4, atol=1e-5)


def test_without_a_class_token_it_is_the_mean_over_patches():
    model = vit(class_token=False, global_pool="avg")
    _, found = rollout(model, PIXELS)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2))


def test_rows_stay_distributions_and_no_attention_moves_nothing():
    rows = torch.rand(2, 5, 5).softmax(-1)
    torch.testing.assert_close(accumulate([rows] * 4).sum(-1), torch.ones(2, 5))
    torch.testing.assert_close(accumulate([torch.eye(5).expand(1, 5, 5)] * 3)[0], torch.eye(5))


def test_fused_attention_is_put_back():
    model = vit()
    before = [block.attn.fused_attn for block in model.net.blocks]
    rollout(model, PIXELS)
    assert [block.attn.fused_attn for block in model.net.blocks] == before
    assert all(not block.attn.attn_drop._forward_pre_hooks for block in model.net.blocks)


def test_who_has_no_rollout_is_refused():
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=1, depths=(1, 1, 1, 1), embed_dim=24)
    edge = models.create(DetectorSpec(name="edge32", arguments={"width": 16}))
    assert not has_rollout(swin)
    assert not has_rollout(edge)
    with pytest.raises(ExplainError, match="rollout needs one ViT"):
        rollout(PixelModel(edge, Preprocess(height=32, width=32)).eval(), torch.zeros(1, 32, 32, 3, dtype=torch.uint8))


def test_tokens_are_placed_as_the_patches_are():
    model = vit()
    tokens = torch.arange(7.0)[None, :, None].expand(2, 7, 4)  # a class token, then two rows of three patches
    assert grid_of(model.net, tokens, "here")[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(ExplainError, match="'here' gives 9 tokens, the ViT has 2x3 patches"):
        grid_of(model.net, torch.zeros(2, 9, 4), "here")
    assert transformer(torch.nn.ModuleList([vit(1).net, vit(1).net])) is None
