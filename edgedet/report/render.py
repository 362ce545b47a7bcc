"""The report as one HTML file without a single request, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from edgedet.bench import table
from edgedet.report import plots, sheets
from edgedet.report.content import Report, Subject, Sweep
from edgedet.report.sheets import Sheet

TEMPLATE = "page.html.j2"


def html(report: Report) -> str:
    """The page: style, script and plots are in it.

    Raises:
        ModuleNotFoundError: jinja2 or matplotlib is not installed.
    """
    import jinja2

    text = resources.files("edgedet.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["sort_key"] = sheets.sort_key
    return environment.from_string(text).render(
        report=report,
        runs=[_run(report, place) for place in range(len(report.runs))],
        artifacts=sheets.of_subjects(report.subjects),
        sections=_sections(report),
        families=families(report.subjects),
        environment=sheets.environment(report),
    )


def markdown(report: Report) -> str:
    """The tables and lists of the page; the plots are only there."""
    parts = [f"# {report.title}", f"Made {report.made} by edgedet {report.edgedet}."]
    if report.missing:
        parts += ["## Not in this report", _list(report.missing)]
    for run in report.runs:
        parts += [f"## Benchmark {run.file}", _grid(sheets.of_run(run, report)), _list(table.footnotes(run.rows))]
    if report.subjects:
        parts += ["## Artifacts", _grid(sheets.of_subjects(report.subjects)), "## Lineage"]
        parts += [_list(f"{line} → {subject.name}" for line, subject in _chains(report.subjects))]
    if report.audits:
        parts += ["## Audit", _list(line.headline for line in report.audits)]
    parts += ["## Environment", _list(f"{name}: {value}" for name, value in sheets.environment(report))]
    if report.unused:
        parts += ["## Not used", _list(report.unused)]
    return "\n\n".join(part for part in parts if part) + "\n"


def families(subjects: Sequence[Subject]) -> list[tuple[int, str, str]]:
    """The lineages as one tree: depth, what a line says, and the name of the artifact that is here, or an empty string."""
    here = {subject.digest: subject.name for subject in subjects}
    lines: dict[str, tuple[int, str, str]] = {}
    order: list[str] = []
    for subject in subjects:
        own = (subject.digest, subject.stage, subject.kind, subject.name)
        chain = [*((each.digest, each.stage, each.kind, each.name) for each in subject.lineage), own]
        for depth, (digest, stage, kind, name) in enumerate(chain):
            if digest not in lines:
                after = order.index(chain[depth - 1][0]) + 1 if depth else len(order)
                while after < len(order) and lines[order[after]][0] >= max(depth, 1):
                    after += 1
                order.insert(after, digest)
                lines[digest] = (depth, f"{stage}: {here.get(digest, name)}, {kind}, {digest[:12]}", here.get(digest, ""))
    return [lines[digest] for digest in order]


def _run(report: Report, place: int) -> dict[str, Any]:
    run = report.runs[place]
    return {
        "file": run.file,
        "older": run.older,
        "sheet": sheets.of_run(run, report),
        "notes": table.footnotes(run.rows),
        "pareto": plots.pareto(run.rows, f"pareto-{place}"),
    }


def _sections(report: Report) -> list[dict[str, str]]:
    """Title, a line on how to read it, and the plot, of each plot that there is."""
    found: list[dict[str, str]] = []

    def add(title: str, words: str, drawn: str | None) -> None:
        if drawn:
            found.append({"title": title, "words": words, "plot": drawn})

    for place, (split, sweeps) in enumerate(_by_split(report.sweeps).items()):
        words = "Balanced accuracy in percent: each generator's fakes against all reals."
        add(f"Generators, split {split}", words, plots.heatmap(sweeps, f"map-{place}"))
    words = "Validation split. Each dot is an operating point that travels with the artifact."
    add("ROC", words, plots.roc(report.subjects, "roc"))
    for place, (split, sweeps) in enumerate(_by_split(report.sweeps).items()):
        words = "One factor at a time, at the stored threshold; bands are 95 % intervals."
        add(f"Robustness, split {split}", words, plots.robustness(sweeps, f"robust-{place}"))
    words = "Validation split, on which temperature and bias were fitted. The area of a dot is its share of the images."
    add("Reliability", words, plots.reliability(report.subjects, "reliability"))
    titles = {"model": "Latency, model only", "whole": "Latency, file to score", "preprocess": "Latency, file to pixels"}
    for scenario, title in titles.items():
        shown = [each for each in report.latencies if each.scenario == scenario]
        add(title, "Batch 1. Every timed call; dots at p50, p90 and p99.", plots.latencies(shown, f"latency-{scenario}"))
    return found


def _by_split(sweeps: Sequence[Sweep]) -> dict[str, list[Sweep]]:
    splits: dict[str, list[Sweep]] = {}
    for sweep in sweeps:
        splits.setdefault(sweep.split, []).append(sweep)
    return splits


def _chains(subjects: Sequence[Subject]) -> list[tuple[str, Subject]]:
    return [(" → ".join(f"{each.stage} {each.name}" for each in s.lineage) or "the first of its line", s) for s in subjects]


def _grid(sheet: Sheet) -> str:
    return "\n".join(table.grid(sheet.headings, sheet.rows, right=sheet.figures))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {table.escape(line)}" for line in lines)
