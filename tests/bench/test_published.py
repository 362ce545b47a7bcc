"""Published latencies and throughputs: what is on file is valid, has a source and a known amount of work."""

import pytest

from edgedet.bench import published
from edgedet.bench.published import LatencyRow
from edgedet.bench.reference import SourceRow
from edgedet.errors import BenchError

HEADER = "target,device,mode,model,architecture,precision,height,width,batch,latency_ms,statistic,source"
GOOD = "rtx-3090,A Card,,resnet50,torchvision/resnet50,fp16,480,640,1,1.6,mean,here"
KNOWN = {"here": SourceRow(source="here", runtime="TensorRT 10", protocol="ten runs", url="https://example.org", licence="MIT")}


def read(tmp_path, *lines: str, header: str = HEADER):
    (tmp_path / "latency.csv").write_text("\n".join([header, *lines]) + "\n")
    return published.read(tmp_path / "latency.csv", LatencyRow, KNOWN)


def test_the_devices_have_their_published_latencies():
    rows = {(row.target, row.model, row.precision, row.height, row.width, row.latency_ms) for row in published.latencies()}
    assert ("rtx-3090", "resnet50", "int8", 480, 640, 1.05) in rows
    assert ("jetson-orin-nano", "ResNet50", "fp16", 224, 224, 4.80201) in rows
    assert ("jetson-agx-orin", "resnet50_v1.5 (MLPerf)", "int8", 224, 224, 0.6335) in rows


def test_throughputs_are_in_a_file_of_their_own():
    assert {row.images_per_second for row in published.throughputs() if row.target == "jetson-orin-nx"} >= {2517.99, 2640.51}
    assert not set(LatencyRow.__struct_fields__) & {"images_per_second", "throughput"}


def test_every_source_says_where_how_and_under_which_licence():
    for row in (*published.latencies(), *published.throughputs()):
        source = published.sources()[row.source]
        assert source.url.startswith("https://"), source
        assert source.licence
        assert source.protocol


def test_every_architecture_that_is_named_has_its_work():
    for row in published.latencies():
        if row.architecture:
            assert published.work_of(row.architecture, row.height, row.width).kernels > 0


def test_work_that_was_not_counted_is_refused():
    with pytest.raises(BenchError, match=r"no work of timm/resnet50 at 7x7: run benchmarks/architectures\.py"):
        published.work_of("timm/resnet50", 7, 7)


def test_a_good_row(tmp_path):
    (row,) = read(tmp_path, GOOD)
    assert (row.target, row.mode, row.latency_ms, row.batch) == ("rtx-3090", "", 1.6, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("1.6", "0"), r"latency\.csv:3: .*> 0.*latency_ms"),
        (GOOD.replace("1.6", "nan"), r"latency\.csv:3: .*latency_ms"),
        (GOOD.replace("fp16", "fp8"), r"latency\.csv:3: .*fp8.*precision"),
        (GOOD.replace(",480,", ",4.5,"), r"latency\.csv:3: .*int.*height"),
        (GOOD.replace("here", "hre"), r"latency\.csv:3: source 'hre' is not in sources\.csv; did you mean 'here'\?"),
        (GOOD + ",more", r"latency\.csv:3: expected 12 fields, got 13"),
        (GOOD, r"latency\.csv:3: the same measurement is there twice: resnet50, 480x640, here"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path, line, message):
    with pytest.raises(BenchError, match=message):
        read(tmp_path, GOOD, line)
