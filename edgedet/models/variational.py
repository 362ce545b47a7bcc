"""A linear layer whose weights are distributions, and the frozen samples of it that are exported.

Source: Blundell et al., "Weight Uncertainty in Neural Networks", ICML 2015: ``q(w) = N(mu, softplus(rho)^2)``, prior N(0, 1) on
weights and biases alike, one sample of all of them for each training batch. In evaluation the samples are drawn once, with a
seed, and kept: what a network says of an image does not change, and the exported graph has no random operator.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models.structure import Axis

Prediction = Literal["sampled", "mean"]


class BayesianLinear(nn.Linear):
    """(B, I) -> the logits of real and fake (B, 2) by a fresh sample in training, their difference (B, 1) in evaluation.

    `weight` and `bias` are the means, so that what reads an ordinary last layer reads them; 4 I + 4 parameters.

    samples: how many of the weights are kept for evaluation; the logit is that of the mean probability over them.
    predict: ``mean`` for the logits (B, 2) of the mean weights instead, at the cost of an ordinary layer and without an
        uncertainty.
    seed: of the kept samples.
    """

    axes: ClassVar[dict[int, tuple[Axis, ...]]] = {
        0: (("weight", 0), ("bias", 0), ("weight_rho", 0), ("bias_rho", 0), ("weight_draws", 1), ("bias_draws", 1)),
        1: (("weight", 1), ("weight_rho", 1), ("weight_draws", 2)),
    }
    """Where its two widths lie, for `edgedet.models.structure`: inputs that are pruned take their samples along."""

    bias: nn.Parameter
    weight_draws: Tensor
    bias_draws: Tensor

    def __init__(self, inputs: int, *, samples: int = 50, predict: Prediction = "sampled", seed: int = 0) -> None:
        if predict not in ("sampled", "mean"):
            raise ValueError(f'`predict` is "sampled" or "mean", got {predict!r}')
        if samples < 1:
            raise ValueError(f"`samples` must be positive, got {samples}")
        super().__init__(inputs, 2)
        self.predict: Prediction = predict
        self.weight_rho = nn.Parameter(torch.empty(2, inputs))
        self.bias_rho = nn.Parameter(torch.empty(2))
        # Standard normal, and a part of the weights' file: no other version of torch draws others.
        source = torch.Generator().manual_seed(seed)
        self.register_buffer("weight_draws", torch.randn(samples, 2, inputs, generator=source))
        self.register_buffer("bias_draws", torch.randn(samples, 2, generator=source))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Means from N(0, 0.1), rho from N(-3, 0.1)."""
        for mean in (self.weight, self.bias):
            nn.init.normal_(mean, 0.0, 0.1)
        if hasattr(self, "bias_rho"):  # nn.Linear calls this before they are made
            for rho in (self.weight_rho, self.bias_rho):
                nn.init.normal_(rho, -3.0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I) -> (B, 2) by one set of weights, (B, 1) by the kept samples."""
        if self.training:
            weight = self.weight + torch.randn_like(self.weight) * F.softplus(self.weight_rho)
            bias = self.bias + torch.randn_like(self.bias) * F.softplus(self.bias_rho)
            return F.linear(x, weight, bias)
        return self.outputs(x)["logit"]

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """(B, I) -> ``logit`` as in evaluation and, by the kept samples, its ``uncertainty`` (B,)."""
        if self.predict == "mean":
            return {"logit": F.linear(x, self.weight, self.bias)}
        weight, bias = self.sampled()
        return mixture(F.linear(x, weight, bias))

    def sampled(self) -> tuple[Tensor, Tensor]:
        """The kept samples as one layer's weights (2 T, I) and biases (2 T,): real and fake of the first, of the second ..."""
        weight = self.weight + self.weight_draws * F.softplus(self.weight_rho)
        bias = self.bias + self.bias_draws * F.softplus(self.bias_rho)
        return weight.flatten(0, 1), bias.flatten()

    def divergence(self) -> Tensor:
        """``KL(q || prior)`` in nats, summed over all weights and biases; a scalar."""
        total = self.weight.new_zeros(())
        for mean, rho in ((self.weight, self.weight_rho), (self.bias, self.bias_rho)):
            deviation = F.softplus(rho)
            total = total + ((deviation**2 + mean**2 - 1) / 2 - deviation.log()).sum()
        return total

    def penalty(self, images: int) -> Tensor:
        """The divergence's share of one of so many training images, a scalar.

        Raises:
            ModelError: the number is not positive.
        """
        if images < 1:
            raise ModelError(f"the divergence is shared out over the training images, expected at least 1, got {images}")
        return self.divergence() / images

    def frozen(self) -> nn.Linear:
        """An ordinary layer, (B, I) -> what evaluation gives; nothing in it is random."""
        if self.predict == "mean":
            return _filled(nn.Linear(self.in_features, 2), self.weight, self.bias)
        weight, bias = self.sampled()
        return _filled(FrozenSamples(self.in_features, len(weight)), weight, bias)


class FrozenSamples(nn.Linear):
    """T layers as one of 2 T outputs, real and fake of each: (B, I) -> the logit (B, 1) of their mean probability."""

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x)["logit"]

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """``logit`` (B, 1) and ``uncertainty`` (B,)."""
        return mixture(F.linear(x, self.weight, self.bias))


def mixture(logits: Tensor) -> dict[str, Tensor]:
    """Of T pairs of logits (real, fake), side by side in (B, 2 T), the mean of their softmaxes.

    ``logit`` (B, 1): ``log(mean p_fake) - log(mean p_real)``, whose sigmoid is the mean probability of fake. ``uncertainty``
    (B,): the mutual information between verdict and weights in nats, the entropy of the mean less the mean of the entropies; 0
    when all samples agree, at most ln 2. Source of the latter: Houlsby et al., BALD, 2011.
    """
    pairs = logits.reshape(-1, logits.shape[1] // 2, 2)
    margin = pairs[:, :, 1] - pairs[:, :, 0]
    fake, real = _log_sigmoid(margin), _log_sigmoid(-margin)
    mean_fake, mean_real = _log_mean_exp(fake), _log_mean_exp(real)
    information = (_entropy(mean_fake, mean_real) - _entropy(fake, real).mean(1, keepdim=True)).clamp_min(0.0)
    return {"logit": mean_fake - mean_real, "uncertainty": information.flatten()}


def _log_sigmoid(x: Tensor) -> Tensor:
    """Of the difference of two logits: the log of the softmax.

    Written out because a runtime may compute log-softmax as the logarithm of a softmax, which is minus infinity from -104 on.
    """
    return -torch.relu(-x) - torch.log(1 + torch.exp(-x.abs()))


def _log_mean_exp(x: Tensor) -> Tensor:
    """(B, T) -> (B, 1)."""
    largest = x.amax(1, keepdim=True)
    return largest + torch.log(torch.exp(x - largest).mean(1, keepdim=True))


def _entropy(fake: Tensor, real: Tensor) -> Tensor:
    """In nats, of two log-probabilities of one shape."""
    return -(fake.exp() * fake + real.exp() * real)


def _filled(layer: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    # Taken as they are, which a network without storage allows as well.
    layer.load_state_dict({"weight": weight.detach().clone(), "bias": bias.detach().clone()}, assign=True)
    return layer
