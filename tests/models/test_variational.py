import math

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgedet.errors import ModelError
from edgedet.export.onnx import export_onnx
from edgedet.models import structure
from edgedet.models.pixels import PixelModel
from edgedet.models.structure import count_parameters
from edgedet.models.variational import BayesianLinear, mixture
from edgedet.preprocess import Preprocess


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def wide(inputs: int = 6, samples: int = 9) -> BayesianLinear:
    """A layer whose samples differ a lot."""
    layer = BayesianLinear(inputs, samples=samples)
    nn.init.normal_(layer.weight_rho)
    nn.init.normal_(layer.bias_rho)
    return layer


def probabilities(layer: BayesianLinear, x: torch.Tensor) -> torch.Tensor:
    """The softmax of every kept sample, one by one: (T, B, 2) in float64."""
    found = []
    for weight, bias in zip(layer.weight_draws, layer.bias_draws, strict=True):
        w = layer.weight + weight * torch.log(1 + torch.exp(layer.weight_rho))
        b = layer.bias + bias * torch.log(1 + torch.exp(layer.bias_rho))
        found.append(torch.softmax((x @ w.T + b).double(), dim=1))
    return torch.stack(found)


def test_parameters_start_where_the_source_starts_them():
    layer = BayesianLinear(2048)
    assert count_parameters(layer) == 8_196
    assert layer.weight.mean().abs() < 0.01
    assert layer.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert layer.weight_rho.mean().item() == pytest.approx(-3, abs=0.01)
    assert layer.weight_rho.std().item() == pytest.approx(0.1, rel=0.05)


def test_a_training_pass_is_an_ordinary_layer_by_one_sample_of_all_weights():
    layer, x = wide().train(), torch.randn(5, 6)
    torch.manual_seed(3)
    found = layer(x)
    torch.manual_seed(3)
    weight = layer.weight + torch.randn(2, 6) * F.softplus(layer.weight_rho)
    bias = layer.bias + torch.randn(2) * F.softplus(layer.bias_rho)
    torch.testing.assert_close(found, x @ weight.T + bias)
    assert not torch.equal(layer(x), found)
    found.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("frozen", [False, True])
def test_an_evaluation_is_the_mean_probability_of_the_kept_samples(frozen):
    layer, x = wide().eval(), torch.randn(5, 6)
    mean = probabilities(layer, x).mean(0)
    module = layer.frozen() if frozen else layer
    torch.testing.assert_close(torch.sigmoid(module(x)[:, 0]).double(), mean[:, 1], atol=1e-6, rtol=1e-5)
    assert module.out_features == (18 if frozen else 2)
    assert torch.equal(module(x), module(x))


def test_the_uncertainty_is_the_mutual_information_of_verdict_and_weights():
    layer, x = wide().eval(), torch.randn(5, 6)
    each = probabilities(layer, x)
    mean = each.mean(0)
    expected = -(mean * mean.log()).sum(1) + (each * each.log()).sum(2).mean(0)
    assert expected.min() > 0.01
    torch.testing.assert_close(layer.outputs(x)["uncertainty"].double(), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(layer.frozen().outputs(x)["uncertainty"].double(), expected, atol=1e-6, rtol=1e-4)


def test_samples_that_agree_are_certain_and_samples_that_contradict_each_other_are_not():
    agree = mixture(torch.tensor([[0.0, 2.0, 1.0, 3.0]]))
    assert agree["logit"].item() == pytest.approx(2.0, abs=1e-6)
    assert agree["uncertainty"].item() == pytest.approx(0.0, abs=1e-6)
    contradict = mixture(torch.tensor([[0.0, 50.0, 50.0, 0.0]]))
    assert contradict["logit"].item() == pytest.approx(0.0, abs=1e-6)
    assert contradict["uncertainty"].item() == pytest.approx(math.log(2), abs=1e-6)


def test_logits_of_any_size_stay_finite():
    logits = torch.tensor([[0.0, 4000.0, 0.0, 3000.0], [4000.0, 0.0, 3000.0, 0.0]], requires_grad=True)
    found = mixture(logits)
    # The smaller probability is e^-4000 in one sample and e^-3000 in the other: half of the latter is the mean.
    expected = torch.tensor([3000 + math.log(2), -3000 - math.log(2)])
    torch.testing.assert_close(found["logit"][:, 0], expected)
    assert torch.equal(found["uncertainty"], torch.zeros(2))
    found["logit"].sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_the_mean_weights_are_the_cheap_prediction():
    layer, x = BayesianLinear(6, predict="mean").eval(), torch.randn(5, 6)
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
    assert type(layer.frozen()) is nn.Linear
    torch.testing.assert_close(layer.frozen()(x), layer(x))
    assert list(layer.outputs(x)) == ["logit"]


def test_the_divergence_is_that_of_normal_distributions():
    layer = wide()
    expected = 0.0
    for mean, rho in ((layer.weight, layer.weight_rho), (layer.bias, layer.bias_rho)):
        q = torch.distributions.Normal(mean.double(), F.softplus(rho.double()))
        prior = torch.distributions.Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))
        expected += torch.distributions.kl_divergence(q, prior).sum()
    torch.testing.assert_close(layer.divergence().double(), expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(layer.penalty(28_000).double(), expected / 28_000, atol=1e-9, rtol=1e-6)
    with pytest.raises(ModelError, match="expected at least 1, got 0"):
        layer.penalty(0)


def test_kept_samples_are_those_of_the_seed_and_travel_with_the_weights():
    first, again, other = BayesianLinear(6), BayesianLinear(6), BayesianLinear(6, seed=1)
    assert torch.equal(first.weight_draws, again.weight_draws)
    assert not torch.equal(first.weight_draws, other.weight_draws)
    other.load_state_dict(first.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(other.eval()(x), first.eval()(x))


def test_every_tensor_of_the_layer_follows_its_widths():
    narrower = structure.apply(nn.Sequential(BayesianLinear(6, samples=9)), {"0": [2, 4]})
    theirs = BayesianLinear(4, samples=9).state_dict()
    assert {name: each.shape for name, each in narrower[0].state_dict().items()} == {
        name: each.shape for name, each in theirs.items()
    }
    narrower[0].load_state_dict(theirs)
    assert narrower.eval()(torch.randn(5, 4)).shape == (5, 1)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"samples": 0}, "positive, got 0"), ({"predict": "median"}, "got 'median'")]
)
def test_other_samples_and_predictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BayesianLinear(6, **arguments)


class Uncertain(nn.Module):
    """(B, 8, 8, 3) pixels to logit and uncertainty, as a graph has them."""

    def __init__(self, head: nn.Module, preprocess: Preprocess):
        super().__init__()
        self.head, self.pixels = head, PixelModel(nn.Identity(), preprocess)

    def forward(self, pixels):
        found = self.head.outputs(self.pixels.normalise(pixels).mean((2, 3)))
        return found["logit"].flatten(), found["uncertainty"]


def test_nothing_in_the_graph_is_random():
    preprocess = Preprocess(height=8, width=8)
    layer = wide(inputs=3, samples=50).eval()
    module = Uncertain(layer.frozen(), preprocess)
    model = export_onnx(module, preprocess, opset=18, outputs=("logit", "uncertainty"))
    operators = {node.op_type for node in model.graph.node}
    assert not {name for name in operators if name.startswith(("Random", "Bernoulli", "Multinomial"))}
    assert sum(node.op_type in ("Gemm", "MatMul") for node in model.graph.node) == 1
    assert sorted(tuple(each.dims) for each in model.graph.initializer if len(each.dims) == 2) == [(100, 3)]
    pixels = torch.randint(0, 256, (7, 8, 8, 3), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logit, uncertainty = session.run(None, {"pixels": pixels.numpy()})
    mean = probabilities(layer, module.pixels.normalise(pixels).mean((2, 3))).mean(0)[:, 1].detach().numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-logit.astype(np.float64))), mean, atol=1e-6)
    np.testing.assert_allclose(uncertainty, module(pixels)[1].detach().numpy(), atol=1e-6)
