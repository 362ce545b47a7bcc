import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_networks import ALL, lively

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.compress.groups import find
from edgedet.compress.removal import remove
from edgedet.errors import ModelError
from edgedet.models import cvt, structure
from edgedet.models.cvt import ConvolutionalAttention, Cvt, published_name

SHAPE = {"depths": (1, 2, 3), "widths": (64, 128, 128)}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def known(name: str, shape: torch.Size) -> torch.Tensor:
    """A tensor that is a function of its name; norms keep signs and sizes that make sense."""
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.1, tuple(shape))
    if name.endswith(("normalization.weight", "running_var", "layernorm_before.weight", "layernorm_after.weight")):
        values = np.abs(values) + 1
    return torch.from_numpy(values.astype(np.float32))


def as_published(net: Cvt) -> dict[str, torch.Tensor]:
    """Such tensors for all of `net` under the hub's names, and what the hub has besides."""
    found = {published_name(name): known(published_name(name), tensor.shape) for name, tensor in net.state_dict().items()}
    counted = {name: torch.tensor(3) for name in found if name.endswith("num_batches_tracked")}
    return {**found, **counted, "layernorm.weight": torch.ones(384), "classifier.bias": torch.zeros(1000)}


def test_it_computes_what_transformers_computes():
    """The figures are those of transformers 5.24, CvtModel with the same tensors, the last hidden state averaged."""
    net = Cvt(**SHAPE).eval()
    cvt.load_published(net, as_published(net))
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, 3, 64, 48)).astype(np.float32))
    with torch.inference_mode():
        found = net(x)
    expected = torch.tensor([
        [-3.2761058807373047, 1.0156856775283813, 2.3459155559539795, -3.6705684661865234, -0.3099846839904785],
        [-3.082033395767212, 1.1893097162246704, 1.6881699562072754, -2.81709885597229, -1.3320198059082031],
    ])  # fmt: skip
    torch.testing.assert_close(found[:, [0, 1, 2, 3, -1]], expected, atol=1e-5, rtol=1e-5)


def test_tensors_have_the_names_of_the_hub():
    names = {
        "stages.0.conv.weight": "stages.0.embedding.convolution_embeddings.projection.weight",
        "stages.1.norm.bias": "stages.1.embedding.convolution_embeddings.normalization.bias",
        "stages.2.class_token": "stages.2.cls_token",
        "stages.2.blocks.9.norm1.weight": "stages.2.layers.9.layernorm_before.weight",
        "stages.2.blocks.9.norm2.weight": "stages.2.layers.9.layernorm_after.weight",
        "stages.2.blocks.9.mlp.0.bias": "stages.2.layers.9.intermediate.dense.bias",
        "stages.2.blocks.9.mlp.2.bias": "stages.2.layers.9.output.dense.bias",
        "stages.2.blocks.9.attention.output.weight": "stages.2.layers.9.attention.output.dense.weight",
        "stages.0.blocks.0.attention.query.linear.weight": "stages.0.layers.0.attention.attention.projection_query.weight",
        "stages.0.blocks.0.attention.key.conv.weight": (
            "stages.0.layers.0.attention.attention.convolution_projection_key.convolution_projection.convolution.weight"
        ),
        "stages.0.blocks.0.attention.value.norm.running_mean": (
            "stages.0.layers.0.attention.attention.convolution_projection_value.convolution_projection.normalization.running_mean"
        ),
    }
    assert {name: published_name(name) for name in names} == {name: f"cvt.encoder.{theirs}" for name, theirs in names.items()}
    with torch.device("meta"):
        whole = Cvt().state_dict()
    assert set(names) <= set(whole)
    assert len({published_name(name) for name in whole}) == len(whole) == 455  # the hub's 459 less its norm and classifier


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cvt.encoder.stages.2.cls_token": None}, "cls_token is missing, expected \\(1, 1, 128\\)"),
        ({"cvt.encoder.stages.0.extra": torch.ones(1)}, "stages.0.extra is left over"),
        ({"cvt.encoder.stages.2.cls_token": torch.ones(1, 1, 64)}, r"cls_token is \(1, 1, 64\), expected \(1, 1, 128\)"),
    ],
)
def test_weights_of_another_network_are_refused(change, message):
    net = Cvt(**SHAPE)
    given = {name: tensor for name, tensor in {**as_published(net), **change}.items() if tensor is not None}
    with pytest.raises(ModelError, match=f"not the weights of microsoft/cvt-13: .*{message}"):
        cvt.load_published(net, given)


def test_pretrained_weights_come_from_the_hub(monkeypatch):
    asked = []

    def hub(model, filename):
        asked.append((model, filename))
        with torch.device("meta"):
            return {published_name(name): tensor for name, tensor in Cvt().state_dict().items()} | {"odd": torch.ones(1)}

    monkeypatch.setattr(cvt, "load_state_dict_from_hf", hub)
    with torch.device("meta"), pytest.raises(ModelError, match="odd is left over"):
        cvt.cvt13_mlp(pretrained=True)
    assert asked == [("microsoft/cvt-13", "model.safetensors")]


def attended(block: ConvolutionalAttention, tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Attention of one image, head by head and query by query."""
    token, grid = tokens[:, :1], tokens[:, 1:].transpose(1, 2).reshape(1, -1, *size)
    q, k, v = (
        part.linear(torch.cat([token, part.norm(part.conv(grid)).flatten(2).transpose(1, 2)], dim=1))[0]
        for part in (block.query, block.key, block.value)
    )
    width = q.shape[1] // block.num_heads
    mixed = torch.zeros_like(q)
    for head in range(block.num_heads):
        columns = slice(head * width, (head + 1) * width)
        for position in range(len(q)):
            share = torch.softmax(k[:, columns] @ q[position, columns] * block.scale, dim=0)
            mixed[position, columns] = share @ v[:, columns]
    return block.output(mixed)


def test_attention_is_softmax_of_scores_over_the_root_of_the_whole_width():
    block = ConvolutionalAttention(128, 2, with_token=True).eval()
    tokens = torch.randn(1, 1 + 6 * 4, 128)
    assert block.scale == 128**-0.5
    with torch.inference_mode():
        found = block(tokens, (6, 4))
        torch.testing.assert_close(found[0], attended(block, tokens, (6, 4)), atol=1e-5, rtol=1e-5)
    assert [part.conv.stride for part in (block.query, block.key, block.value)] == [(1, 1), (2, 2), (2, 2)]


def small() -> torch.nn.Module:
    return lively(cvt.cvt13_mlp(depths=(1, 2), widths=(64, 128)))


def image() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_network_without_a_head_is_the_whole_one_whose_output_ignores_that_head():
    net = small()
    groups = [group for group in find(net, image()[:1], classifier="head.out", kinds=("heads",)).groups if group.count == 2]
    layers = [net.get_submodule(group.name) for group in groups]
    assert layers == [block.attention for block in net.backbone.stages[1].blocks]
    for layer in layers:
        layer.output.weight.data[:, 64:] = 0
    wanted = net(image())
    remove(net, groups, [torch.tensor([True, False])] * 2)
    torch.testing.assert_close(net(image()), wanted, atol=1e-5, rtol=1e-4)
    # The scores' scale stays that of the width with which the weights were trained.
    assert [(layer.num_heads, layer.query.linear.out_features, layer.scale) for layer in layers] == [(1, 64, 128**-0.5)] * 2


def test_heads_hidden_widths_and_embeddings_come_back_from_the_structure_to_the_bit():
    net = small()
    found = find(net, image()[:1], classifier="head.out", kinds=ALL)
    assert Counter(group.kind for group in found.groups) == {"embedding": 2, "mlp": 5, "heads": 3}
    assert found.reasons == {"head.out": "the output"}
    remove(net, found.groups, [torch.arange(group.count) % 3 != 1 for group in found.groups])
    again = structure.apply(small(), structure.difference(net, small()))
    again.load_state_dict(net.state_dict())
    assert structure.count_parameters(again) < 0.5 * structure.count_parameters(small())
    assert torch.equal(again(image()), net(image()))


def test_the_map_attends_to_the_class_token():
    net = Cvt((1, 1, 1), (64, 64, 64)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = net.stages(x)
        torch.nn.init.normal_(net.stages[2].class_token)
        after = net.stages(x)
    assert before.shape == after.shape == (1, 64, 4, 4)
    assert not torch.allclose(before, after)


def test_paths_are_dropped_in_the_last_stage_alone_and_ever_more_often():
    with torch.device("meta"):
        rates = [[block.drop_path.drop_prob for block in stage.blocks] for stage in Cvt().stages]
    assert rates[:2] == [[0.0], [0.0, 0.0]]
    assert rates[2] == pytest.approx([number / 90 for number in range(10)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [64, 96, 128]}, "cvt13-mlp: `widths` are multiples of 64, one for each of `depths`"),
        ({"depths": [1, 2]}, "one for each of `depths`"),
        ({"depths": [1, 2, 3], "pretrained": True}, r"no pretrained weights for depths = \(1, 2, 3\) \(\(1, 2, 10\)\)"),
    ],
)
def test_shapes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        models.create(DetectorSpec(name="cvt13-mlp", arguments=arguments))
