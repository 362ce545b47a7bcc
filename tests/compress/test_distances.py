import pytest
import torch
import torch.nn.functional as F

from edgedet.compress.distances import logit_distance


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_logit_distance_is_the_divergence_up_to_the_teachers_entropy(temperature):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(40, requires_grad=True), 3 * torch.randn(40)

    def both(z):
        return torch.stack([torch.zeros_like(z), z / temperature], dim=1)

    divergence = F.kl_div(
        F.log_softmax(both(student), 1), F.log_softmax(both(teacher), 1), log_target=True, reduction="batchmean"
    )
    p = torch.sigmoid(teacher / temperature)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
    torch.testing.assert_close(logit_distance(student, teacher, temperature), (divergence + entropy) * temperature**2)
