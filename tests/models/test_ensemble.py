"""The network of an ensemble."""

import pytest
import torch
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.models.ensemble import Ensemble


def test_a_two_class_member_counts_by_its_logit_of_fake():
    torch.manual_seed(0)
    two, one = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    x = torch.randn(3, 3, 2, 2)
    with torch.inference_mode():
        classes = two(x)
        mean = (classes[:, 1:] - classes[:, :1] + one(x)) / 2
        torch.testing.assert_close(Ensemble([two, one], ["1", "1"])(x), mean)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([{"name": "npr-student"}] * 2, "cannot be a member: it has front_end besides its forward pass"),
        ([{"name": "repvgg-edge"}] * 2, "cannot be a member: it has deploy besides"),
        ([{"name": "edge32"}], "two members or more, got 1"),
        ([{"name": "edge23"}] * 2, "no detector is called 'edge23'"),
    ],
)
def test_what_cannot_be_a_member_is_refused_with_the_reason(members, reason):
    with pytest.raises(ModelError, match=reason):
        models.create(DetectorSpec(name=models.ENSEMBLE, arguments={"members": members}))


def test_a_member_without_a_linear_end_is_refused():
    with pytest.raises(ValueError, match="does not end in a linear layer of one or two logits"):
        Ensemble([nn.Sequential(nn.Conv2d(3, 1, 1)), nn.Sequential(nn.Linear(3, 1))], ["0", "0"])
