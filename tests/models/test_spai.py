import copy
import functools

import msgspec
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from edgedet import models, recipe
from edgedet.artifact import DetectorSpec
from edgedet.compress.prune import PruneRecipe, narrow
from edgedet.errors import ModelError
from edgedet.models import spai, structure
from edgedet.models.macs import macs
from edgedet.models.pixels import PixelModel
from edgedet.models.structure import count_parameters
from edgedet.training import freezing
from edgedet.training.config import Phase
from edgedet.training.losses import Batch, Supervised
from edgedet.training.optimizer import make_optimizer
from edgedet.training.stage import TrainRecipe

SMALL = DetectorSpec(name="spai-tiny", arguments={"depth": 2, "side": 64, "radius": 8, "width": 24})


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@functools.cache
def small():
    torch.manual_seed(0)
    return models.create(SMALL).eval()


def outline(name):
    """The network without values: made in no time, however large."""
    with torch.device("meta"):
        return models.create(DetectorSpec(name=name))


def test_the_published_size():
    net = outline("spai")
    assert count_parameters(net.encoder.backbone) == 85_797_120
    assert len(net.encoder.backbone.blocks) == 12
    assert net.encoder.features == 6 * 12 + 1024 == 1096
    assert net.aggregator.key_value.weight.shape == (3072, 1096)
    assert [layer.weight.shape for layer in net.aggregator.head if isinstance(layer, torch.nn.Linear)] == [
        (3288, 1096),
        (3288, 3288),
    ]
    assert outline("spai-tiny").encoder.features == 6 * 12 + 256


def features_one_by_one(net, patch):
    """The features of one patch (3, side, side), as the paper's section 3 says them, loop by loop."""
    low = net.encoder.front_end.low_pass(patch[None])[0]
    mean, std = torch.tensor(models.IMAGENET_MEAN).view(3, 1, 1), torch.tensor(models.IMAGENET_STD).view(3, 1, 1)
    vit, answers = net.encoder.backbone, []
    for band in (patch, low.clamp(0, 1), (patch - low).clamp(0, 1)):
        x, tokens = vit._pos_embed(vit.patch_embed(((band - mean) / std)[None])), []
        for block, projector in zip(vit.blocks, net.encoder.projectors, strict=True):
            x = block(x)
            tokens.append(projector(x[0, 1:]))  # without the class token
        answers.append(tokens)
    similarity, images = [], []
    for original, of_low, of_high in zip(*answers, strict=True):
        values = [F.cosine_similarity(*pair, dim=-1) for pair in ((original, of_low), (original, of_high), (of_low, of_high))]
        similarity += [figure for value in values for figure in (value.mean(), value.std())]
        images.append(net.encoder.summary(torch.cat([original.mean(0), original.std(0)])))
    weights = net.encoder.importance.softmax(0)
    image = net.encoder.image(sum(weight * one for weight, one in zip(weights, images, strict=True)))
    return torch.cat([torch.stack(similarity), image])


@torch.no_grad()
def test_features_are_those_of_the_paper():
    net, x = small(), torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([features_one_by_one(net, patch) for patch in x])
    torch.testing.assert_close(net.encoder(x), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_asks_every_patch_in_any_order():
    aggregator = small().aggregator
    x = torch.randn(2, 5, small().encoder.features, generator=torch.Generator().manual_seed(0))
    key, value = aggregator.key_value(x).chunk(2, dim=2)
    context = []
    for head in range(aggregator.heads):
        part = slice(head * 64, (head + 1) * 64)
        scores = torch.einsum("d,bpd->bp", aggregator.query[head, 0], key[..., part]) / 64**0.5
        context.append(torch.einsum("bp,bpd->bd", scores.softmax(1), value[..., part]))
    expected = aggregator.classifier(aggregator.head(aggregator.norm(aggregator.out(torch.cat(context, dim=1)))))
    torch.testing.assert_close(aggregator(x), expected)
    torch.testing.assert_close(aggregator(x[:, [3, 1, 4, 0, 2]]), expected)


@torch.no_grad()
def test_five_alike_weigh_what_one_weighs():
    net = small()
    features = net.encoder(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(net.aggregator(features.expand(5, -1)[None]), net.aggregator(features[None]))


def test_a_blank_image_has_a_gradient():
    net = models.create(SMALL)
    net(torch.full((1, 3, 64, 64), 0.5)).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_weights_of_the_transformer_come_from_a_file(tmp_path):
    given = {name: torch.randn_like(tensor) for name, tensor in small().encoder.backbone.state_dict().items()}
    more = {"norm.weight": torch.ones(192), "head.bias": torch.zeros(1000), "blocks.2.norm1.weight": torch.ones(192)}
    save_file({**given, **more}, tmp_path / "vit.safetensors")
    net = spai.spai_tiny(**SMALL.arguments, pretrained=str(tmp_path / "vit.safetensors"))
    for name, tensor in net.encoder.backbone.state_dict().items():
        assert torch.equal(tensor, given[name]), name


def test_biases_kept_apart_are_joined(tmp_path):
    given = dict(small().encoder.backbone.state_dict())
    for block in range(2):
        bias = given.pop(f"blocks.{block}.attn.qkv.bias")
        given[f"blocks.{block}.attn.q_bias"], given[f"blocks.{block}.attn.v_bias"] = bias[:192] + 1, bias[384:] + 3
    save_file({name: tensor.clone() for name, tensor in given.items()}, tmp_path / "mfm.safetensors")
    net = spai.spai_tiny(**SMALL.arguments, pretrained=str(tmp_path / "mfm.safetensors"))
    found = net.encoder.backbone.blocks[1].attn.qkv.bias
    assert (found[:192] == 1).all()
    assert (found[192:384] == 0).all()
    assert (found[384:] == 3).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"blocks.0.norm1.weight": torch.ones(192)}, "is not of this transformer: missing cls_token"),
        (None, "cannot be read: .*as safetensors"),
    ],
)
def test_another_file_is_refused(tmp_path, content, message):
    path = tmp_path / "vit.safetensors"
    path.write_bytes(b"not tensors") if content is None else save_file(content, path)
    with pytest.raises(ModelError, match=message):
        models.create(DetectorSpec(name="spai-tiny", arguments={**SMALL.arguments, "pretrained": str(path)}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet18"}, "must be a vision transformer of timm"),
        ({"backbone": "vit_tiny_patch16_224", "depth": 13}, "has 12 blocks, `depth` is 13: give 1 to 12"),
        ({"backbone": "vit_tiny_patch16_224", "depth": 1, "side": 32, "radius": 20}, "spai: a low-pass of radius 20"),
    ],
)
def test_arguments_that_make_no_network_are_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        models.create(DetectorSpec(name="spai", arguments=arguments))


def test_a_checkpoint_is_rebuilt_without_the_file():
    spec = DetectorSpec(name="spai-tiny", arguments={**SMALL.arguments, "pretrained": "gone.safetensors"})
    assert count_parameters(models.rebuild(spec, {})) == count_parameters(small())


def test_the_frozen_transformer_stays_while_the_rest_learns():
    torch.manual_seed(0)
    preprocess = msgspec.structs.replace(models.lookup("spai").preprocess, height=128, width=128)
    model = PixelModel(spai.spai_tiny(**SMALL.arguments, dropout=0.0), preprocess)  # its noise would hide a few steps
    config = recipe.load("train", "spai", TrainRecipe).training
    config = msgspec.structs.replace(config, lr=1e-3, batch_size=4, accumulate=1)
    objective = Supervised(model, config)
    freezing.freeze(model, freezing.trained(model), config, Phase())
    optimizer = make_optimizer(objective, config)
    pixels = torch.randint(0, 256, (4, 128, 128, 3), dtype=torch.uint8)
    pixels[2:] = pixels[2:] // 4 * 4
    numbers = torch.arange(4)
    batch = Batch(pixels, torch.tensor([0.0, 0.0, 1.0, 1.0]), numbers, numbers < 0)
    before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    first = objective.eval()(batch).item()
    for _ in range(3):
        objective.train()(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert objective.eval()(batch).item() < first
    changed = {name for name, tensor in model.net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if not name.startswith("encoder.backbone.")}


def test_hidden_widths_and_heads_can_be_pruned():
    preprocess = msgspec.structs.replace(models.lookup("spai").preprocess, height=64, width=64)
    model = PixelModel(copy.deepcopy(small()), preprocess).eval()
    before = macs(model)
    reasons = narrow(model, "spai-tiny", PruneRecipe(stage="prune"), lambda pruned: macs(pruned) <= 0.6 * before)
    assert macs(model) <= 0.6 * before
    assert reasons["aggregator.classifier"] == "the output"
    widths = structure.difference(model.net, models.create(SMALL))
    parts = ("backbone.blocks.0.attn", "backbone.blocks.0.mlp.fc1", "projectors.0.hidden", "summary.hidden", "image.hidden")
    assert {f"encoder.{part}" for part in parts} | {"aggregator.head.0"} <= set(widths)
    again = models.rebuild(SMALL, widths)
    again.load_state_dict(model.net.state_dict())
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), model.net(x), atol=0, rtol=0)
