import itertools

import pytest
import torch
import torch.nn.functional as F

from edgedet.compress.distances import angle_distance, attention_distance, attention_map, logit_distance, relation_distance


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


def pooled(mapped: torch.Tensor, size: int) -> torch.Tensor:
    """Means of equal windows, where `size` divides the side."""
    side = len(mapped) // size
    windows = [mapped[r * side : (r + 1) * side, c * side : (c + 1) * side] for r in range(size) for c in range(size)]
    return torch.stack([window.mean() for window in windows])


def test_an_attention_map_is_the_mean_of_squared_channels_with_length_one():
    features = torch.randn(2, 5, 3, 4)
    for found, of_image in zip(attention_map(features), features, strict=True):
        squares = sum(channel**2 for channel in of_image) / 5
        torch.testing.assert_close(found, squares / squares.square().sum().sqrt())


@pytest.mark.parametrize("sizes", [(8, 4), (4, 8), (4, 4)])
def test_attention_distance_is_half_the_squared_norm_of_equation_2_in_the_smaller_size(sizes):
    torch.manual_seed(0)
    student, teacher = (attention_map(torch.randn(3, 6, side, side)) for side in sizes)
    total = 0.0
    for ours, theirs in zip(student.double(), teacher.double(), strict=True):
        q_s, q_t = (pooled(each, min(sizes)) for each in (ours, theirs))
        total += (q_s / q_s.norm() - q_t / q_t.norm()).norm() ** 2 / 2 / 3
    torch.testing.assert_close(attention_distance(student, teacher).double(), total, rtol=1e-5, atol=1e-6)


def huber(x: float) -> float:
    return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5


def test_relation_distance_is_the_published_sum_over_pairs():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, dtype=torch.double), 4 * torch.randn(5, 7, dtype=torch.double) ** 3
    pairs = list(itertools.combinations(range(5), 2))
    ours, theirs = ([float((x[i] - x[j]).norm()) for i, j in pairs] for x in (student, teacher))
    ours, theirs = ([distance / (sum(each) / len(each)) for distance in each] for each in (ours, theirs))
    expected = sum(huber(one - other) for one, other in zip(ours, theirs, strict=True)) / len(pairs)
    assert float(relation_distance(student, teacher)) == pytest.approx(expected)


def test_angle_distance_is_the_published_sum_over_triplets():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, dtype=torch.double), torch.randn(5, 7, dtype=torch.double)

    def cosine(x, i, j, k):
        one, other = x[i] - x[j], x[k] - x[j]
        return float(one @ other / one.norm() / other.norm())

    triplets = [(i, j, k) for i, j, k in itertools.permutations(range(5), 3) if i < k]
    expected = sum(huber(cosine(student, *each) - cosine(teacher, *each)) for each in triplets) / len(triplets)
    assert float(angle_distance(student, teacher)) == pytest.approx(expected)


@pytest.mark.parametrize("distance", [relation_distance, angle_distance])
def test_relations_do_not_know_scale_or_place_and_are_learned(distance):
    torch.manual_seed(0)
    teacher = torch.randn(6, 4, dtype=torch.double)
    assert float(distance(3 * teacher + 1, teacher)) == pytest.approx(0, abs=1e-12)
    student = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: distance(x, teacher), (student,))


@pytest.mark.parametrize("distance", [relation_distance, angle_distance])
@pytest.mark.parametrize("equal", [2, 5])
def test_images_that_are_alike_have_finite_gradients(distance, equal):
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    for each in (student, teacher):
        each[:equal] = each[0]
    student.requires_grad_()
    distance(student, teacher).backward()
    assert torch.isfinite(student.grad).all()
