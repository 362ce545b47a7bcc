"""The roofline on times that were made from known factors."""

import numpy as np
import pytest

from edgedet.bench import roofline
from edgedet.bench.roofline import Ceilings, Sample
from edgedet.work import Work

CONV = Work(macs=1e9, convolution_macs=1e9, grouped_macs=0, attention_macs=0, weights=1e6, elements=1e7, kernels=20)


def changed(**values) -> Work:
    return Work(**{**{name: getattr(CONV, name) for name in Work.__struct_fields__}, **values})


def samples(factors, count=8, noise=0.0, precision="fp16") -> list[Sample]:
    rng = np.random.default_rng(0)
    terms = rng.uniform(0.1, 2, (count, 3)) * [1, 1, 100]
    times = terms @ np.array(factors) * (1 + noise * rng.standard_normal(count))
    return [Sample(f"net{i}", precision, row, float(took)) for i, (row, took) in enumerate(zip(terms, times, strict=True))]


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (CONV, "dense"),
        (changed(grouped_macs=1e7), "depthwise"),
        (changed(attention_macs=1e8, convolution_macs=1e8), "transformer"),
        (changed(attention_macs=1e8), "hybrid"),
        (changed(attention_macs=1e8, convolution_macs=1e8, grouped_macs=1e8), "hybrid"),
    ],
)
def test_families_are_told_by_what_they_compute(work, expected):
    assert roofline.family(work) == expected


def test_terms_are_what_each_alone_would_take():
    ceilings = Ceilings(operations=1e9, bandwidth=1e6, bytes_each=2)
    assert roofline.terms(CONV, ceilings).tolist() == [2.0, 2 * 1.1e7 / 1e6, 20]
    assert roofline.terms(CONV, ceilings, batch=10).tolist() == pytest.approx([2.0, 2 * (1e5 + 1e7) / 1e6, 2])


@pytest.mark.parametrize("factors", [(1.2, 0.7, 0.01), (0, 1.9, 0.008), (2, 0, 0)])
def test_the_factors_come_out_again(factors):
    assert roofline.fit(samples(factors)) == pytest.approx(factors, abs=1e-9)


def test_no_factor_is_negative_even_where_that_would_fit_better():
    found = roofline.fit(samples((1.0, -0.3, 0.01)))
    assert (found >= 0).all()
    assert found[1] == 0


def test_each_precision_has_its_own_factors():
    both = [*samples((1, 0, 0)), *samples((3, 0, 0), precision="int8")]
    model = roofline.linear(both)
    asked = np.array([1.0, 1.0, 1.0])
    assert model(Sample("", "fp16", asked)) == pytest.approx(1)
    assert model(Sample("", "int8", asked)) == pytest.approx(3)


def test_a_device_with_few_rows_takes_the_others_shape_and_its_own_factor():
    base = roofline.linear(samples((1, 1, 0.01)))
    theirs = [Sample(each.architecture, "fp16", each.terms, 2.5 * each.milliseconds) for each in samples((1, 1, 0.01))[:3]]
    model = roofline.scaled(base)(theirs)
    assert model(Sample("", "fp16", np.array([1.0, 1.0, 100.0]))) == pytest.approx(2.5 * 3)


def test_an_architecture_is_left_out_with_all_its_rows():
    """One network's rows are off by a factor of two; a model that had seen the others of it would know."""
    good = samples((1, 1, 0.01))
    odd = [Sample("odd", "fp16", each.terms, 2 * each.milliseconds) for each in good[:3]]
    seen: list[set[str]] = []

    def fitter(rest):
        seen.append({each.architecture for each in rest})
        return roofline.linear(rest)

    errors = roofline.leave_one_out([*good, *odd], fitter, lambda sample: sample.architecture == "odd")
    assert seen == [{each.architecture for each in good}]
    assert errors.median == pytest.approx(0.5)
    assert (errors.rows, errors.architectures) == (3, 1)


def test_errors_are_quantiles_of_the_relative_error():
    several = samples((1, 1, 0.01), count=12, noise=0.2)
    errors = roofline.leave_one_out(several, roofline.linear)
    slow = []
    for each in several:
        rest = [other for other in several if other is not each]
        slow.append(abs(float(each.terms @ roofline.fit(rest)) / each.milliseconds - 1))
    assert (errors.median, errors.p90) == (pytest.approx(np.median(slow)), pytest.approx(np.quantile(slow, 0.9)))


def test_a_single_architecture_leaves_nothing_to_judge_by():
    one = [Sample("only", "fp16", each.terms, each.milliseconds) for each in samples((1, 1, 0.01))]
    assert roofline.leave_one_out(one, roofline.linear) is None
