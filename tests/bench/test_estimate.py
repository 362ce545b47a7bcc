"""Estimates from the published rows: how far off they are is part of them, and what has no rows has none."""

import pytest

from edgedet import target as targets
from edgedet.bench import estimate, published
from edgedet.bench.estimate import latency, throughput
from edgedet.errors import BenchError
from edgedet.work import Work

RESNET50 = published.work_of("torchvision/resnet50", 224, 224)
LARGE_RESNET50 = published.work_of("torchvision/resnet50", 480, 640)
MOBILENET = published.work_of("torchvision/mobilenet_v3_large", 224, 224)
VIT = published.work_of("timm/vit_small_patch16_224", 224, 224)
TINY = Work(macs=2e6, convolution_macs=2e6, grouped_macs=0, attention_macs=0, weights=9e4, elements=1e5, kernels=9)


@pytest.fixture
def rtx():
    return targets.load("rtx-3090")


@pytest.mark.parametrize(("precision", "took"), [("fp32", 4.77), ("fp16", 1.6), ("int8", 1.05)])
def test_a_card_with_many_rows_is_met_within_the_error_that_is_printed(rtx, precision, took):
    found = latency(LARGE_RESNET50, rtx, precision)
    assert found.kind == "estimated"
    assert (found.unit, found.family, found.architectures) == ("ms", "dense", 6)
    assert 0 < found.median_error <= found.p90_error < 0.4
    assert found.value == pytest.approx(took, rel=found.p90_error)
    assert "its own published rows" in found.method


def test_depthwise_networks_have_a_roofline_of_their_own(rtx):
    found = latency(published.work_of("torchvision/mobilenet_v3_large", 480, 640), rtx, "fp16")
    assert found.family == "depthwise"
    assert found.architectures == 7
    assert found.p90_error < 0.4


@pytest.mark.parametrize(("precision", "took"), [("fp16", 1.1421), ("int8", 0.6335)])
def test_a_board_with_few_rows_takes_one_factor(precision, took):
    found = latency(RESNET50, targets.load("jetson-agx-orin"), precision)
    assert found.value == pytest.approx(took, rel=max(found.p90_error, 0.1))
    assert (found.mode, found.precision) == ("MAXN", precision)
    assert "one factor" in found.method
    assert found.p90_error < 0.4


def test_a_precision_of_which_nothing_was_published_says_whose_error_it_shows():
    found = latency(RESNET50, targets.load("jetson-orin-nano"), "int8")
    assert found.mode == "15W (assumed)"
    assert any("no int8 row" in note and "error are of fp16" in note for note in found.notes)
    assert found.value < latency(RESNET50, targets.load("jetson-orin-nano"), "fp16").value == pytest.approx(4.80201, rel=0.1)


def test_an_unknown_family_is_refused_and_throughputs_do_not_count(rtx):
    """The card's transformers have published throughputs, and no latency."""
    assert throughput(VIT, rtx).value == pytest.approx(3500, rel=0.3)
    with pytest.raises(BenchError, match=r"no estimate for a transformer network .* throughputs do not count"):
        latency(VIT, rtx, "fp16")


@pytest.mark.parametrize(
    ("name", "said"), [("jetson-orin-nx", r"there are 1 \(resnet50\)"), ("jetson-agx-thor", "there are none")]
)
def test_a_board_with_too_few_rows_is_refused(name, said):
    with pytest.raises(BenchError, match=said):
        latency(RESNET50, targets.load(name), "fp16")


def test_a_network_far_from_what_was_published_is_called_extrapolated(rtx):
    notes = latency(TINY, rtx, "int8").notes
    assert any("extrapolated: 2 MMACs" in note for note in notes)
    assert any("extrapolated: 9 kernels" in note for note in notes)
    assert not latency(LARGE_RESNET50, rtx, "int8").notes


def test_no_latency_is_one_over_a_throughput(rtx):
    assert latency(RESNET50, rtx, "fp16").value > 2 * 1000 / throughput(RESNET50, rtx).value


def test_throughput_is_that_of_the_cards_published_rows(rtx):
    found = throughput(RESNET50, rtx)
    assert found.value == pytest.approx(3729.86, rel=found.p90_error)
    assert (found.unit, found.precision) == ("images/s", "amp")
    with pytest.raises(BenchError, match="no throughputs to estimate from"):
        throughput(RESNET50, targets.load("jetson-orin-nano"))


def test_power_modes_are_not_mixed():
    """MLPerf has the AGX Orin at tuned-down clocks as well, 2.5 times slower."""
    evidence = estimate._evidence("jetson-agx-orin", "dense")
    assert max(sample.milliseconds for sample in evidence.samples) == 1.1421
