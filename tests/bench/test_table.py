import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from edgedet.bench import table
from edgedet.bench.power import Load, Power
from edgedet.bench.probe import Device
from edgedet.bench.result import Accuracy, BenchRow, Interval, Memory, Point, Share
from edgedet.bench.statistics import Latency, Ratio
from edgedet.errors import BenchError

TEACHER = BenchRow(
    name="teacher",
    kind="measured",
    date="2026-01-02T03:04:05+00:00",
    device=Device(name="A CPU", system="Linux", cores=2, flags=("avx2",)),
    runtime="onnxruntime",
    runtime_version="1.31",
    precision="fp32",
    img_size=(224, 224),
    threads=2,
    weights="trained",
    digest="ab" * 32,
    size_bytes=94_000_000,
    memory=Memory(peak_bytes=200_000_000, base_bytes=40_000_000),
    latency=Latency(n=500, p50_ms=31.24, p90_ms=33, p95_ms=34, p99_ms=None, p99_reason="too few", mean_ms=32, cov=0.2),
    throughput=(Point(batch=4, images_per_second=44.4),),
    speedup=Ratio(baseline="teacher", value=1, low=1, high=1, rounds=20),
    accuracy=Accuracy(
        split="test",
        balanced_accuracy=Interval(value=0.9712, low=0.96, high=0.98),
        auc=Interval(value=0.99),
        worst_generator="up2",
        worst_balanced_accuracy=Interval(value=0.901),
    ),
)
STUDENT = replace(
    TEACHER,
    name="student",
    digest="cd" * 32,
    latency=Latency(n=9_000, p50_ms=0.03124, p90_ms=0.04, p95_ms=0.05, p99_ms=0.061, mean_ms=0.03, cov=0.01),
    speedup=Ratio(baseline="teacher", value=1000, low=990.5, high=1011, rounds=20),
)
PUBLISHED = BenchRow(
    name="resnet50",
    kind="published",
    source="timm; https://example.org",
    device=Device(name="A CARD"),
    precision="amp",
    throughput=(Point(batch=1024, images_per_second=3729.86),),
)
ESTIMATED = replace(PUBLISHED, name="guess", kind="estimated", source="roofline")


def cells(text: str) -> dict[str, dict[str, str]]:
    """A Markdown table as {model: {heading: cell}}."""
    lines = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_markdown_shows_the_figures_of_each_row():
    found = cells(table.markdown([TEACHER, STUDENT]))
    assert found["teacher"]["p50 ms"] == "31.2"
    assert found["teacher"]["p99 ms"] == "–"
    assert found["teacher"]["size KB"] == "94,000"
    assert found["teacher"]["images/s (batch)"] == "44.4 (4)"
    assert found["teacher"]["bal. acc. % [95 %]"] == "97.1 [96.0, 98.0]"
    assert found["teacher"]["worst generator %"] == "up2 90.1"
    assert found["teacher"]["speed-up [95 %]"] == "1"
    assert found["student"]["p50 ms"] == "0.0312"
    assert found["student"]["speed-up [95 %]"] == "1000.00 [990.50, 1011.00]"


def test_what_the_harness_costs_and_what_runtimes_differ_by_is_said():
    slow = replace(TEACHER, harness_ms=0.00052, parity=0.00123)
    assert cells(table.markdown([slow, STUDENT]))["teacher"]["max Δ logit"] == "0.001"
    notes = table.footnotes([slow, STUDENT])
    assert "the harness itself, on a runtime that does nothing: 0.52 µs a call, not subtracted" in notes
    assert "max Δ logit: on golden images, to the logits that the artifact was exported with" in notes
    assert not [note for note in table.footnotes([TEACHER]) if "harness" in note or "Δ" in note]


@pytest.mark.parametrize(("high", "words"), [(1.02, "holds 1, as it must"), (0.995, "does not hold 1")])
def test_an_artifact_beside_itself_tells_what_can_be_told_apart(high, words):
    again = replace(TEACHER, name="again", speedup=Ratio(baseline="teacher", value=0.99, low=0.98, high=high, rounds=20))
    (said,) = [note for note in table.footnotes([TEACHER, again]) if "teacher again" in note]
    assert said.startswith(f"again is teacher again: 0.990 [0.980, {high:.3f}] {words}")
    other = replace(again, runtime="openvino")
    assert not [note for note in table.footnotes([TEACHER, other]) if "teacher again" in note]


def test_what_was_not_measured_here_is_marked_in_every_cell():
    text = table.markdown([TEACHER, PUBLISHED, ESTIMATED])
    found = cells(text)
    assert found["teacher"]["images/s (batch)"] == "44.4 (4)"
    assert found["resnet50"]["images/s (batch)"] == "3,730 (1024)†"
    assert found["guess"]["images/s (batch)"] == "3,730 (1024)‡"
    assert [found[name]["figures"] for name in found] == ["measured", "published", "estimated"]
    assert "- † published: resnet50 on A CARD: timm; https://example.org" in text
    assert "- ‡ estimated: guess on A CARD: roofline" in text


def test_a_published_throughput_is_no_latency():
    published = cells(table.markdown([TEACHER, PUBLISHED]))["resnet50"]
    assert {cell for heading, cell in published.items() if "ms" in heading} == {"–"}


def test_a_share_of_a_published_throughput_names_its_row():
    of = {"model": "resnet50", "img_size": 224, "precision": "amp", "batch": 1024}
    share = Share(value=44.4 / 3729.86, of=3729.86, device="A CARD", **of)
    shown = table.markdown([replace(TEACHER, share=share), PUBLISHED])
    found = cells(shown)
    assert found["teacher"]["% of reference images/s"] == "1.19"
    assert found["resnet50"]["% of reference images/s"] == "–"
    words = "images/s here / 3,730 published for resnet50 at 224 px, amp, batch 1024 on the A CARD; throughputs, not latencies"
    assert f"- % of reference images/s, teacher: {words}" in shown


def test_energy_has_a_column_or_a_reason():
    loads = [
        Load(batch=batch, mw=5000, above_idle_mw=drawn, images_per_second=100, millijoules_per_image=drawn / 100, samples=9)
        for batch, drawn in ((1, 4000.0), (64, 2000.0), (128, -10.0))
    ]
    drawn = Power(source="rapl", rails=("package-0",), scope="packages", idle_mw=12_340, idle_samples=9, loads=tuple(loads))
    shown = table.markdown([replace(TEACHER, power=drawn), replace(STUDENT, power_reason="no sensors")])
    found = cells(shown)
    assert (found["teacher"]["images/J (batch)"], found["student"]["images/J (batch)"]) == ("50.0 (64)", "–")
    assert "- images/J: of packages (rapl), above 12.34 W at rest, model only, without a pause" in shown
    assert "- no energy: no sensors" in shown
    assert replace(TEACHER, power=replace(drawn, loads=(loads[2],))).best_load is None


def test_memory_of_a_gpu_has_a_column_where_there_is_one():
    there = replace(TEACHER, memory=replace(TEACHER.memory, device_bytes=310_000_000))
    assert cells(table.markdown([there]))["teacher"]["GPU MB"] == "310"
    assert "GPU MB" not in cells(table.markdown([TEACHER]))["teacher"]


def test_preprocessing_alone_has_a_column():
    found = cells(table.markdown([replace(TEACHER, preprocess=STUDENT.latency), PUBLISHED]))
    assert (found["teacher"]["preprocess p50 ms"], found["resnet50"]["preprocess p50 ms"]) == ("0.0312", "–")


def test_columns_without_a_value_are_left_out():
    assert "flips %" not in cells(table.markdown([TEACHER]))["teacher"]
    flips = Accuracy(split="test", flip_rate=Interval(value=0.012))
    assert cells(table.markdown([replace(TEACHER, accuracy=flips)]))["teacher"]["flips %"] == "1.2"


def test_the_brief_table_has_the_same_cells_in_fewer_columns():
    rows = [TEACHER, STUDENT, PUBLISHED]
    short, whole = cells(table.brief(rows)), cells(table.markdown(rows))
    assert short == {name: {key: line[key] for key in table.BRIEF if key in line} for name, line in whole.items()}
    assert [note for note in table.brief(rows).splitlines() if note.startswith("- ")] == [
        note for note in table.markdown(rows).splitlines() if note.startswith("- measured on")
    ]


def test_untrained_weights_and_failures_are_said():
    untrained = replace(TEACHER, name="anchor", weights="untrained", accuracy=None)
    failed = replace(TEACHER, name="broken", latency=None, throughput=(), error="no kernel | at all")
    text = table.markdown([untrained, failed])
    assert "anchor (untrained)" in cells(text)
    assert cells(text)["broken"]["figures"] == "failed"
    assert "- broken failed: no kernel \\| at all" in text


def test_footnotes_warn_once_each():
    busy = replace(TEACHER, others_share=0.5, warmup_stable=False, device=replace(TEACHER.device, load_average=2.0))
    notes = table.footnotes([busy, replace(busy, name="second")])
    assert len(notes) == len(set(notes))
    text = "\n".join(notes)
    assert "measured on A CPU, 2 cores (avx2), Linux, 2026-01-02" in text
    assert "p99 of teacher: too few" in text
    assert "speed-up: p50 of teacher / p50, one run" in text
    assert "accuracy on split test" in text
    assert "load average 2.00" in text
    assert "other processes took 50%" in text
    assert "unsteady, coefficient of variation above 2.5%: teacher 20.0%, second 20.0%" in text
    assert "not steady when the warm-up ended: teacher, second" in text


@pytest.mark.parametrize("width", [60, 80, 300])
def test_the_terminal_shows_everything_at_any_width(width):
    out = Console(file=io.StringIO(), width=width)
    table.show([TEACHER, STUDENT, PUBLISHED], out)
    text = out.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for figure in ("31.2", "0.0312", "3,730 (1024)†", "97.1 [96.0, 98.0]", "1000.00 [990.50, 1011.00]"):
        assert figure in text
    assert text.count("student") == text.count("┏")  # each table of a page begins with the model


def test_no_rows_is_an_error():
    with pytest.raises(BenchError, match="no results to show"):
        table.markdown([])
