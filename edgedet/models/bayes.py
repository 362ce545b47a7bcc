"""ResNet-50 with a Bayesian last layer, plain or behind a spatial gate: a verdict with an uncertainty.

Source: "AI-Generated Image Detection" (Dou, Xu, Zhang, Shen), sections on ResNet-50 and its Bayesian variants.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from edgedet.models.blocks import Gated, SpatialGate
from edgedet.models.resnet import Weights, with_weights
from edgedet.models.table import IMAGENET_MEAN, IMAGENET_STD, Detector, Detectors
from edgedet.models.variational import BayesianLinear, Prediction
from edgedet.preprocess import Preprocess


class BayesianResNet(nn.Module):
    """(B, 3, H, W) -> (B, 2) in training, by one sample of the last layer's weights; (B, 1) in evaluation, by kept ones."""

    def __init__(self, trunk: nn.Module, attend: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.attend = attend
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(x))
        return logits

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """``logit`` and, by samples, its ``uncertainty`` (B,) in nats: `edgedet.models.variational.mixture`."""
        embedding = self.embedding(x)
        given: Callable[[Tensor], dict[str, Tensor]] | None = getattr(self.head, "outputs", None)
        return {"logit": self.head(embedding)} if given is None else given(embedding)

    def penalty(self, images: int) -> Tensor:
        """The divergence of the last layer's weights from their prior, for one of so many training images."""
        assert isinstance(self.head, BayesianLinear)
        return self.head.penalty(images)

    def deploy(self) -> BayesianResNet:
        """With the samples of the last layer as one ordinary layer."""
        assert isinstance(self.head, BayesianLinear)
        return BayesianResNet(copy.deepcopy(self.trunk), copy.deepcopy(self.attend), self.head.frozen())

    def embedding(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C)."""
        return torch.mean(self.attend(self.trunk(x)), (2, 3))


def resnet50_bnn(*, pretrained: Weights = False, samples: int = 50, predict: Prediction = "sampled") -> BayesianResNet:
    """ResNet-50 with a Bayesian last layer; 23,516,228 parameters, 8,196 of them variational.

    pretrained: ImageNet weights for the trunk, see `edgedet.models.resnet.with_weights`.
    samples, predict: of the last layer, see `edgedet.models.variational.BayesianLinear`.
    """
    return _build(nn.Identity(), pretrained=pretrained, samples=samples, predict=predict)


def resnet50_sa_bnn(*, pretrained: Weights = False, samples: int = 50, predict: Prediction = "sampled") -> BayesianResNet:
    """The same with a spatial gate, [mean; max] and 7x7 with bias, on the last map; 23,516,327 parameters.

    With 50 samples frozen for deployment, 23,713,031.
    """
    gate = Gated(SpatialGate(7, mean_first=True))
    return _build(gate, pretrained=pretrained, samples=samples, predict=predict)


def _build(attend: nn.Module, *, pretrained: Weights, samples: int, predict: Prediction) -> BayesianResNet:
    trunk: nn.Module = timm.create_model(with_weights(pretrained), pretrained=bool(pretrained), num_classes=0, global_pool="")
    return BayesianResNet(trunk, attend, BayesianLinear(2048, samples=samples, predict=predict))


_INPUT = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD)
_SOURCE = "Dou, Xu, Zhang, Shen"
_EXPORT = "the samples of the last layer are frozen, one linear layer: no random operator; the uncertainty is a second output"

DETECTORS: Detectors = {
    "resnet50-bnn": Detector(
        resnet50_bnn,
        _SOURCE,
        _INPUT,
        reference="resnet50",
        features="attend",
        export_notes=_EXPORT,
        int8_notes="the sampled layer stays in float",
    ),
    "resnet50-sa-bnn": Detector(
        resnet50_sa_bnn,
        _SOURCE,
        _INPUT,
        features="attend",
        export_notes=_EXPORT,
        int8_notes="the sampled layer and the gate stay in float",
    ),
}
