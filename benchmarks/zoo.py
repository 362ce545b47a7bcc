"""Every detector of the zoo on every target: ``python benchmarks/zoo.py [DETECTOR...] [--again] [--draw]``.

Each is built with untrained weights at its published input (SPAI at one patch of four), by the stages that `edgedet` runs:
exported in FP32 and held against parity; in INT8 for cpu-x86; in FP32, FP16 and INT8 for rtx-3090, linted and compiled ahead
of time for compute capability 8.6; and pruned to 0.7 of its multiply-accumulates without fine-tuning, and exported and compiled
again. What is refused stays with its reason. Nothing here is a measurement of speed: no GPU runs anything.

A detector is measured in a process of its own with a limit on memory and time, so that one that fails is one row that says
so. Rows of the same code and tools are kept (``--again`` measures them anew). Writes benchmarks/results/zoo.json after every
row and draws docs/detectors.md and the table of docs/tensorrt.md from it; ``--draw`` only draws.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Sequence
from pathlib import Path

from scoreboard import documents, row, store

from edgedet import models
from edgedet.artifact import tool_versions
from edgedet.errors import nearest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    if given.row:
        measure(given.row, given.answer, given.memory)
        return
    rows = store.load(given.results)
    for name in () if given.draw else given.detectors or models.DETECTORS:
        code = row.code_of(name)
        if given.again or not store.stands(rows.get(name), code):
            print(name, flush=True)
            rows[name] = store.ask([__file__], name, memory=int(given.memory * (1 << 30)), seconds=60 * given.minutes)
            rows[name]["code"] = code
            store.save(given.results, rows)
    if given.results == RESULTS:
        documents.draw(ROOT, rows)


def measure(name: str, answer: Path, gigabytes: float) -> None:
    """Write the row of one detector to `answer`, again after each of its parts."""
    limit = int(gigabytes * (1 << 30))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    _, preprocess = row.subject(name)
    made: store.Row = {"name": name, "input": f"{preprocess.height}x{preprocess.width}", "tools": tool_versions(*row.TOOLS)}
    made |= {**row.facts(name), "parts": {}}
    for what, part in row.measured(name):
        made["parts"][what] = part
        print(f"  {what}: {part.get('refused', 'done')}", flush=True)
        answer.write_text(json.dumps(made), encoding="utf-8")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="*", help="names of `edgedet models`; all when none is given")
    parser.add_argument("--draw", action="store_true", help="only draw the documents from what is recorded")
    parser.add_argument("--again", action="store_true", help="measure also what is recorded for the same code")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB of data that a row's process may take")
    parser.add_argument("--minutes", type=float, default=60.0, help="that a row may take")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args(given)
    for name in found.detectors:
        if name not in models.DETECTORS:
            parser.error(f"no detector is called {name!r}{nearest(name, models.DETECTORS)}")
    return found


if __name__ == "__main__":
    main()
