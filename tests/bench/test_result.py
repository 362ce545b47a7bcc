import msgspec
import pytest

from edgedet.bench import result
from edgedet.bench.probe import Device
from edgedet.bench.result import Accuracy, BenchRow, Interval, Memory, Point
from edgedet.bench.statistics import Latency, Ratio
from edgedet.errors import BenchError

DEVICE = Device(name="A CPU", system="Linux", cores=2, flags=("avx2",), load_average=0.1)
LATENCY = Latency(n=5_000, p50_ms=0.031, p90_ms=0.04, p95_ms=0.05, p99_ms=0.09, mean_ms=0.033, cov=0.01)

FULL = BenchRow(
    name="int8",
    kind="measured",
    date="2026-01-02T03:04:05+00:00",
    device=DEVICE,
    runtime="onnxruntime",
    runtime_version="1.31",
    precision="int8",
    img_size=(32, 32),
    threads=1,
    threads_p50_ms={1: 0.031, 2: 0.05},
    weights="trained",
    digest="ab" * 32,
    size_bytes=123_456,
    memory=Memory(peak_bytes=70_000_000, base_bytes=40_000_000),
    latency=LATENCY,
    end_to_end=LATENCY,
    throughput=(Point(batch=1, images_per_second=30_000, threads=2), Point(batch=16, images_per_second=60_000, threads=2)),
    speedup=Ratio(baseline="teacher", value=21.5, low=21.0, high=22.1, rounds=20),
    accuracy=Accuracy(split="test", balanced_accuracy=Interval(value=0.97, low=0.96, high=0.98)),
    versions={"numpy": "2"},
    notes=("a | b",),
)
PUBLISHED = BenchRow(name="resnet50", kind="published", source="a page", device=Device(name="A card"))


def test_what_is_appended_is_read_back(tmp_path):
    path = tmp_path / "results" / "a-cpu.jsonl"
    result.append(path, [FULL])
    result.append(path, [PUBLISHED, FULL])
    assert result.load(path) == [FULL, PUBLISHED, FULL]
    assert path.read_bytes().count(b"\n") == 3


def test_the_offline_result_is_the_best_of_the_sweep():
    assert FULL.best_throughput == Point(batch=16, images_per_second=60_000, threads=2)
    assert PUBLISHED.best_throughput is None


def test_a_torn_line_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "a.jsonl"
    result.append(path, [FULL])
    with path.open("ab") as file:
        file.write(b'{"name": "cut o')
    result.append(path, [PUBLISHED])
    with pytest.raises(BenchError, match=r"a\.jsonl:2: not a result line"):
        result.load(path)
    whole = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([whole[0], *whole[2:]]))
    assert result.load(path) == [FULL, PUBLISHED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "guessed"}, "guessed"),
        ({"colour": "red"}, "colour"),
        ({"kind": "published"}, "needs its `source`"),
        ({"digest": None}, "needs its `date` and the artifact's `digest`"),
        ({"schema": 99}, "schema 99"),
    ],
)
def test_a_line_that_is_not_valid_is_refused(tmp_path, change, message):
    tree = {**msgspec.to_builtins(FULL, str_keys=True), **change}
    path = tmp_path / "a.jsonl"
    path.write_bytes(msgspec.json.encode(tree))
    with pytest.raises(BenchError, match=message):
        result.load(path)


def test_a_file_that_cannot_be_read_or_written_is_an_error(tmp_path):
    with pytest.raises(BenchError, match="cannot be read"):
        result.load(tmp_path / "none.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot be written"):
        result.append(tmp_path / "file" / "a.jsonl", [FULL])
