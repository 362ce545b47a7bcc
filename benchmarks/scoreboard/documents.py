"""What is drawn from the results: docs/detectors.md, and the table of compiled graphs in docs/tensorrt.md."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marks

from edgedet import models, recipe
from edgedet.models.table import Detector
from scoreboard.row import KEEP, facts
from scoreboard.store import Row

BEGIN, END = "<!-- compiled -->", "<!-- /compiled -->"
NOTHING = "–"
Part = Mapping[str, Any]


def draw(root: Path, rows: Mapping[str, Row]) -> None:
    """Both documents."""
    (root / "docs" / "detectors.md").write_text(catalogue(rows), encoding="utf-8")
    marks.put(root / "docs" / "tensorrt.md", BEGIN, END, compiled(rows))


@dataclass(frozen=True)
class Column:
    """Of a table: its head, what it shows of a row, and whether that is a figure."""

    head: str
    show: Callable[[Any], str]
    figure: bool = True


def table(columns: Sequence[Column], rows: Iterable[Any]) -> str:
    """Markdown, with a line feed at its end."""
    lines = [[column.head for column in columns], ["---:" if column.figure else "---" for column in columns]]
    lines += [[column.show(row) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# The scoreboard


def part(row: Row, what: str) -> Part:
    """A part of a row; empty when it was refused or is not there."""
    found: Part = row.get("parts", {}).get(what, {})
    return {} if "refused" in found else found


def _figure(what: str, show: Callable[[Part], str]) -> Callable[[Row], str]:
    return lambda row: show(found) if (found := part(row, what)) else ("refused" if _refusal(row, what) else NOTHING)


def _refusal(row: Row, what: str) -> str:
    return str(row.get("parts", {}).get(what, {}).get("refused", ""))


def _int8_of(found: Part) -> str:
    """Of the compiler's kernels: convolutions, then matrix products with a kernel of their own, in INT8 of all."""
    made = found["compiled"]
    convolutions = f"{made['int8_convolutions']} of {made['convolutions']}"
    return convolutions + (f", {made['int8_products']} of {made['products']}" if made["products"] else "")


def _memory(found: Part) -> str:
    made = found["compiled"]
    return f"{(made['weights_bytes'] + made['activation_bytes'] + made['scratch_bytes']) / 1e6:,.0f}"


SCOREBOARD = (
    Column("detector", lambda row: f"[{row['name']}](#{row['name']})", figure=False),
    Column("parameters", lambda row: f"{row['parameters']:,}"),
    Column("MMACs", lambda row: f"{row['mmacs']:,.0f}" if row["mmacs"] >= 10 else f"{row['mmacs']:.1f}"),
    Column("input", lambda row: row["input"], figure=False),
    Column("FP32 export, error", _figure("cpu-x86 fp32", lambda found: f"{found['parity']:.0e}")),
    Column("INT8 x86, error", _figure("cpu-x86 int8", lambda found: f"{found['mean_parity']:.3f}")),
    Column("in integers", _figure("cpu-x86 int8", lambda found: f"{found['integer_layers']} of {found['layers']}")),
    Column("INT8 sm_86, error", _figure("rtx-3090 int8", lambda found: f"{found['mean_parity']:.3f}")),
    Column("kernels in INT8", _figure("rtx-3090 int8", _int8_of)),
    Column("memory MB", _figure("rtx-3090 int8", _memory)),
    Column("pruned", _figure("pruned", lambda found: f"{found['macs_left']:.2f}")),
    Column("pruned, INT8 sm_86", _figure("pruned rtx-3090 int8", _int8_of)),
)

_HEAD = f"""# The detectors

Drawn by `python benchmarks/zoo.py` from the table of detectors, the recipes and `benchmarks/results/zoo.json`; not edited by
hand. Any model of timm is a detector too, as `timm/<name>`.

Weights are untrained, so nothing here says how well a detector detects: the figures show that each goes the whole way, and
what is left in float. Errors are of logits over golden photographs, relative to the logits' scale: the largest for FP32, the
mean for INT8. "In integers": convolutions and matrix products of the ONNX graph, attention's included, that read integers.
"Kernels in INT8": convolutions, then matrix products, in the kernel table of NVIDIA's compiler, ahead of time for compute
capability 8.6, on no GPU; memory is what it states for weights, activations and scratch at batches of up to 16. "Pruned": the
share of the multiply-accumulates left when {KEEP:.0%} was asked for, by magnitude and without fine-tuning, and the kernels of
that network. SPAI was measured at one patch; its multiply-accumulates are of the four of its published input.

"""


def catalogue(rows: Mapping[str, Row]) -> str:
    """The whole of docs/detectors.md; a detector that is not measured yet has its facts alone."""
    known = {name: rows.get(name) or _unmeasured(name) for name in models.DETECTORS}
    text = _HEAD + table(SCOREBOARD, known.values()) + _footnotes(known.values())
    for family in models.FAMILIES:
        names = [name for name in family.DETECTORS if name in models.DETECTORS]
        text += f"\n## {_first_words(family)}\n" + "".join(_section(name, known[name]) for name in names)
    return text


def _unmeasured(name: str) -> Row:
    preprocess = models.lookup(name).preprocess
    return {"name": name, "input": f"{preprocess.height}x{preprocess.width}", **facts(name), "parts": {}}


def _footnotes(rows: Iterable[Row]) -> str:
    lines = [f"- {row['name']}: {row['stopped']}\n" for row in rows if row.get("stopped")]
    for row in rows:
        lines += [f"- {row['name']}, {what}: {why}\n" for what in row["parts"] if (why := _refusal(row, what))]
    return "\n" + "".join(lines) if lines else ""


def _first_words(thing: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def _section(name: str, row: Row) -> str:
    line = models.lookup(name)
    text = f"\n### {name}\n\n{_first_words(line.build)}\n\n"
    return text + "".join(f"- {head}: {said}\n" for head, said in _facts(name, line, row) if said)


def _facts(name: str, line: Detector, row: Row) -> Iterator[tuple[str, str]]:
    pixels = line.preprocess
    yield "source", line.source
    yield "size", f"{row['parameters']:,} parameters, {row['mmacs']:,.1f} MMACs"
    levels = f"mean {_channels(pixels.mean)}, std {_channels(pixels.std)}"
    yield "input", f"{pixels.height}x{pixels.width}, {pixels.geometry}, {pixels.interpolation}; {levels}"
    yield "front-end", line.front_end
    yield "export", line.export_notes
    yield "INT8", line.int8_notes
    yield "pruning leaves alone", _left_alone(part(row, "pruned"))
    yield "recipes", ", ".join(f"[{each.name}](../train/{each.name}.toml)" for each in recipes(name))
    for each in recipes(name):
        if each.published:
            yield f"published ({each.name})", ", ".join(f"{key} {value:g}" for key, value in each.published.items())


def _channels(values: Sequence[float]) -> str:
    shown = [f"{value:.3f}".rstrip("0").rstrip(".") for value in values]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"


def _left_alone(found: Part) -> str:
    reasons = {why for why in (found.get("left_alone") or {}).values() if why != "the output"}
    return "; ".join(sorted(reasons))


@dataclass(frozen=True)
class Recipe:
    """What a recipe says of a detector."""

    name: str
    published: Mapping[str, float]


def recipes(detector: str) -> list[Recipe]:
    """Those that train `detector`."""
    found = []
    for name in recipe.names("train"):
        path = recipe.find("train", name)
        given = recipe.parse(path.read_text(encoding="utf-8"), dict, source=str(path))
        if given.get("detector", {}).get("name") == detector:
            found.append(Recipe(name, given.get("published", {})))
    return found


# The compiled graphs

_PRECISIONS = ("fp32", "fp16", "int8")

COMPILED = (
    Column("model", lambda each: each["name"], figure=False),
    Column("input", lambda each: each["input"], figure=False),
    Column("precision", lambda each: each["precision"], figure=False),
    Column("convolutions in INT8", lambda each: f"{each['int8_convolutions']} of {each['convolutions']}"),
    Column("products in INT8", lambda each: f"{each['int8_products']} of {each['products']}"),
    Column("kernels in Int8 / Half / Float", lambda each: " / ".join(map(str, each["kernels_in"].values()))),
    Column("weights MB", lambda each: f"{each['weights_bytes'] / 1e6:.1f}"),
    Column("activations MB", lambda each: f"{each['activation_bytes'] / 1e6:.1f}"),
    Column("scratch MB", lambda each: f"{each['scratch_bytes'] / 1e6:.1f}"),
    Column("compiled in s", lambda each: f"{each['seconds']:.1f}"),
)


def compiled(rows: Mapping[str, Row]) -> str:
    """The table of docs/tensorrt.md and what is to be said below it."""
    found, refused = [], ""
    for name in models.DETECTORS:
        for precision in _PRECISIONS if name in rows else ():
            what = f"rtx-3090 {precision}"
            made = part(rows[name], what).get("compiled")
            if made:
                found.append({**made, "name": name, "input": rows[name]["input"], "precision": precision})
            elif _refusal(rows[name], what):
                refused += f"- {name} in {precision}: {_refusal(rows[name], what)}\n"
    if not found:
        return ""
    versions = ", ".join(sorted({each["compiler"] for each in found}))
    return f"{table(COMPILED, found)}\n{refused}- compiled by {versions} for compute capability 8.6; batch 1, up to 16\n"
