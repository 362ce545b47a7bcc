import pytest

from edgedet.report import sheets


def test_the_table_of_a_run_has_the_difference_to_the_original(report):
    sheet = sheets.of_run(report.runs[0], report)
    rows = {row[0]: dict(zip(sheet.headings, row, strict=True)) for row in sheet.rows}
    assert sheet.kinds == ("measured", "measured", "published")
    delta = report.subjects[1].curves.delta
    assert rows["child"][sheets.DELTA].startswith(f"{100 * delta['value']:+.2f} [")
    assert rows["teacher"][sheets.DELTA] == "–"
    assert rows["resnet50"]["images/s (batch)"] == "3,730 (1024)†"


def test_a_column_that_no_artifact_has_a_figure_for_is_left_out(report):
    sheet = sheets.of_subjects(report.subjects)
    assert [row[0] for row in sheet.rows] == ["teacher", "child"]
    assert "TPR % at 1 % FPR" not in sheet.headings
    assert "bal. acc. % [95 %]" in sheet.headings


def test_the_environment_names_the_machine_and_the_null_runtime(report):
    lines = dict(sheets.environment(report))
    assert lines["cpu.jsonl: device"] == "A <CPU> & more"
    assert lines["cpu.jsonl: null runtime, p50 µs a call"] == "0.50"
    assert not [name for name in lines if "resnet50" in name]


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        ("1,234.5", "1234.5"),
        ("97.1 [96.0, 98.0]", "97.1"),
        ("3,730 (1024)†", "3730"),
        ("-0.50 [-1.00, +0.25]", "-0.50"),
        ("up2 90.1", "90.1"),
        ("5.62 x", "5.62"),
        ("12.5†", "12.5"),
        ("–", ""),
        ("onnxruntime", ""),
    ],
)
def test_a_cell_is_sorted_by_its_figure(cell, key):
    assert sheets.sort_key(cell) == key
