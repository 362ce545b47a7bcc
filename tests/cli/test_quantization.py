from rich.console import Console

from edgedet.cli.quantization import quantization_tables

ERROR = {"mean_error": 0.0312, "max_error": 0.2, "flips": 3, "n": 256}
MIXED = {
    "alone": [{"block": ["a", "b"], **ERROR}, {"block": ["c"], **ERROR}],
    "pareto": [
        {"blocks_in_float": 0, "layers_in_float": [], **ERROR, "estimated_time": 0.25, "measured_ms": 0.0338},
        {"blocks_in_float": 1, "layers_in_float": ["a", "b"], **ERROR, "estimated_time": 0.5},
    ],
    "float_ms": 0.0484,
    "how": "estimated_time: estimated; measured_ms: measured here",
}


def printed(figures) -> list[str]:
    """The rows of the tables, their cells with one space between."""
    console = Console(width=200, record=True)
    with console.capture() as capture:
        for each in quantization_tables(figures):
            console.print(each)
    return [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in capture.get().splitlines()]


def test_where_nothing_was_tried_nothing_is_shown() -> None:
    assert quantization_tables({}) == []
    assert quantization_tables({"held_out": ERROR}) == []


def test_methods_are_shown_in_the_order_of_their_errors() -> None:
    lines = printed({"ranges": [{"ranges": "entropy", **ERROR}, {"ranges": "percentile 99.99", **ERROR}]})
    assert lines[0] == "ranges, on held-out images"
    assert "entropy 0.0312 0.200 3 of 256" in lines
    assert "percentile 99.99 0.0312 0.200 3 of 256" in lines


def test_estimates_and_measurements_have_columns_of_their_own() -> None:
    lines = printed({"mixed": MIXED})
    assert "a, b 0.0312 0.200 3 of 256" in lines
    assert "blocks in float mean |dz| largest |dz| flips time, estimated, x float ms, measured" in lines
    assert "0 0.0312 0.200 3 of 256 0.25 0.0338" in lines
    assert "1 0.0312 0.200 3 of 256 0.50 –" in lines  # not timed
    assert "all 0 0 0 1 0.0484" in lines
    assert MIXED["how"] in lines
    assert not any(line.startswith("all ") for line in printed({"mixed": {**MIXED, "float_ms": None}}))
