"""The reference machine: published where nobody measured it, measured where somebody did."""

import pytest
from msgspec.structs import replace

from edgedet.bench import beside, entry, reference, result
from edgedet.bench.probe import Device
from edgedet.bench.reference import PublishedRow
from edgedet.bench.result import BenchRow, Point
from edgedet.errors import BenchError
from edgedet.preprocess import Preprocess

CARD = "NVIDIA GeForce RTX 3090"
THERE = BenchRow(
    name="engine",
    kind="measured",
    date="2026-01-02T03:04:05+00:00",
    device=Device(name="A CPU"),
    accelerator=CARD,
    detector="tiny",
    precision="fp32",
    img_size=(224, 224),
    digest="ab" * 32,
    throughput=(Point(batch=1, images_per_second=900.0), Point(batch=64, images_per_second=2000.0)),
)


@pytest.fixture
def mine(make_onnx_artifact, monkeypatch):
    monkeypatch.setitem(reference._ARCHITECTURES, "tiny", "resnet50")
    (found,) = entry.collect([make_onnx_artifact("mine", preprocess=Preprocess(height=224, width=224))], [])
    return found


def test_a_line_that_was_measured_there_takes_the_place_of_the_published_one(mine, tmp_path):
    lines = tmp_path / "rtx-3090-measured.jsonl"
    (published,) = beside.find([mine], "rtx-3090", lines).values()
    assert isinstance(published, PublishedRow)
    slower = replace(THERE, name="slower", throughput=THERE.throughput[:1])
    result.append(lines, [slower, THERE])
    (measured,) = beside.find([mine], "rtx-3090", lines).values()
    assert measured == THERE
    assert beside.line(measured) is measured


@pytest.mark.parametrize(
    "changed",
    [{"accelerator": "Another"}, {"accelerator": None}, {"detector": "other"}, {"precision": "int8"}, {"img_size": (32, 32)}],
    ids=str,
)
def test_a_line_of_something_else_does_not(mine, tmp_path, changed):
    result.append(tmp_path / "lines.jsonl", [replace(THERE, **changed)])
    (found,) = beside.find([mine], "rtx-3090", tmp_path / "lines.jsonl").values()
    assert isinstance(found, PublishedRow)


def test_a_share_is_of_the_best_throughput_there_and_of_no_other_machine_than_its_own(mine):
    here = replace(THERE, accelerator=None, throughput=(Point(batch=4, images_per_second=50.0),))
    share = beside.with_share(here, THERE).share
    assert (share.value, share.of, share.batch, share.kind, share.device) == (0.025, 2000, 64, "measured", CARD)
    (published,) = beside.find([mine], "rtx-3090").values()
    share = beside.with_share(here, published).share
    assert (share.value, share.kind, share.model) == (50 / 3729.86, "published", "resnet50")
    assert beside.with_share(THERE, published).share is None  # it is that machine
    assert beside.with_share(replace(here, throughput=()), published).share is None
    assert beside.with_share(here, "no such row").share is None


def test_a_file_of_lines_that_is_not_valid_is_refused(mine, tmp_path):
    (tmp_path / "lines.jsonl").write_text("{}")
    with pytest.raises(BenchError, match=r"lines\.jsonl:1: not a result line"):
        beside.find([mine], "rtx-3090", tmp_path / "lines.jsonl")
