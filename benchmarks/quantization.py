"""INT8 by edgedet and by its peers, from the same float graph and images, in one run.

    python benchmarks/quantization.py --case teacher runs/cifake/teacher cifake.tar.xz --case npr runs/pairs/npr pairs.tar \\
        --untrained ram-net pairs.tar

Each case is a name, a checkpoint and a data set; an untrained one is a detector and a data set. Of a ``--rescaled`` one the
channels are multiplied and divided by up to 32 first, which float does not feel: a network that rounding harms. ONNX Runtime's
quantize_static runs in this environment; NNCF and ModelOpt in environments that are made in the cache folder. A row that is
there from an earlier run, of the same checkpoint, data and tool, is taken as it is; latency is always measured anew, all rows
of a case in turns. Writes benchmarks/results/quantization.json and draws benchmarks/README.md from it. Each case replaces the
one of its name. A tool that fails, or is not done in time, has a row that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import marks
import msgspec
import numpy as np
from comparison import clock, methods, score, table
from comparison.case import Case, Ready, as_data, prepare
from comparison.methods import BASELINE, METHODS, Limits, Method
from peers.contract import ONNX_RUNTIME

from edgedet.bench import probe
from edgedet.data.store import cache_root
from edgedet.runtime.base import Options
from edgedet.runtime.onnxruntime import OnnxRuntime

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "quantization.json"
README = HERE / "README.md"
KEPT = ("versions", "runtime", "chosen", "layers", "notes", "candidates")
"""Of an answer, what goes to the results."""
BEGIN, END = "<!-- quantization -->", "<!-- /quantization -->"


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    cases = [Case(*each) for each in given.case] + [Case(*each, rescaled=True) for each in given.rescaled]
    cases += [Case(name, name, data, trained=False) for name, data in given.untrained]
    if not cases:
        print("skipped: give a --case or an --untrained one (see --help)")
        return
    wanted = [method for method in METHODS if not given.only or method.folder in given.only]
    limits = Limits(given.minutes, given.threads)
    for case in cases:
        record(compare(case, wanted, given.work, limits, timed=not given.no_latency), given.results)
    if given.results == RESULTS:
        draw(given.results, README)
    print(table.markdown(json.loads(given.results.read_text())))


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=3, action="append", default=[], metavar=("NAME", "CHECKPOINT", "DATA"))
    parser.add_argument("--rescaled", nargs=3, action="append", default=[], metavar=("NAME", "CHECKPOINT", "DATA"))
    parser.add_argument("--untrained", nargs=2, action="append", default=[], metavar=("DETECTOR", "DATA"))
    parser.add_argument("--only", nargs="+", choices=[method.folder for method in METHODS], help="these rows; else all")
    parser.add_argument("--work", type=Path, default=cache_root() / "quantization", help="where rows are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--minutes", type=float, default=30.0, help="for installing a tool, and for each of its answers")
    parser.add_argument("--threads", type=int, default=1, help="of every runtime")
    parser.add_argument("--no-latency", action="store_true")
    return parser.parse_args(given)


def compare(case: Case, wanted: Sequence[Method], work: Path, limits: Limits, *, timed: bool) -> dict[str, Any]:
    """The record of one case: the float row, and one for each of `wanted`."""
    folder = work / case.name.replace("/", "-")
    ready = prepare(case, folder)
    rows: list[dict[str, Any]] = [{"name": table.FLOAT, "own": False, **score.figures(ready.logits, ready)}]
    answers: dict[str, dict[str, Any]] = {}
    for method in (each for each in wanted if case.trained or not each.trains):
        said(f"{case.name}: {method.name}")
        answer = methods.ask(method, ready, folder / "rows", work / "environments", limits)
        rows.append(_row(method, answer, ready))
        if method.timed and rows[-1]["error"] is None:
            answers[method.name] = answer
    found = _latencies(ready, answers, limits) if timed and BASELINE in answers else {}
    shape = np.load(ready.test, mmap_mode="r").shape
    return {
        **as_data(case),
        "detector": ready.checkpoint.manifest.detector.name,
        "digest": ready.checkpoint.digest,
        "key": ready.key,
        "pixels": shape[1],
        "n": shape[0],
        "date": date.today().isoformat(),
        "device": msgspec.to_builtins(probe.device()),
        "threads": limits.threads,
        "notes": _notes(ready),
        "rows": [{**row, **found.get(row["name"], {})} for row in rows],
    }


def _row(method: Method, answer: dict[str, Any], ready: Ready) -> dict[str, Any]:
    row: dict[str, Any] = {"name": method.name, "own": method.own, "error": answer["error"]}
    row |= {name: answer[name] for name in KEPT if name in answer}
    if answer["error"] is None:
        row |= score.figures(score.logits(answer, ready), ready)
    return row


def _notes(ready: Ready) -> list[str]:
    busy = probe.busy(probe.device())
    spread = f"standard deviation of the float graph's logits: {float(ready.logits.std()):.3f}"
    return [spread, *([busy] if busy else [])]


def _latencies(ready: Ready, answers: dict[str, dict[str, Any]], limits: Limits) -> dict[str, dict[str, object]]:
    with contextlib.ExitStack() as stack:
        contestants = dict(_contestants(ready, answers, limits, stack))
        said(f"{ready.case.name}: latency")
        return clock.latencies(clock.take_turns(contestants), BASELINE)


def _contestants(
    ready: Ready, answers: dict[str, dict[str, Any]], limits: Limits, stack: contextlib.ExitStack
) -> Iterator[tuple[str, clock.Contestant]]:
    pixels, options = np.load(ready.test, mmap_mode="r"), Options(threads=limits.threads, spin=False)
    yield table.FLOAT, clock.Here(OnnxRuntime(ready.graph, options), pixels)
    scripts = {method.name: methods.PEERS / method.script for method in METHODS}
    for name, answer in answers.items():
        model = Path(answer["folder"]) / answer["model"]
        if answer["runtime"] == ONNX_RUNTIME:
            yield name, clock.Here(OnnxRuntime(model, options), pixels)
            continue
        command = [answer["python"], str(scripts[name]), "time", str(model), str(ready.test), str(limits.threads)]
        yield name, stack.enter_context(contextlib.closing(clock.There(command, limits.minutes)))


def record(case: dict[str, Any], path: Path) -> None:
    """Put `case` in the place of the one of its name, or behind the others."""
    before = json.loads(path.read_text())["cases"] if path.is_file() else []
    names = [other["name"] for other in before]
    cases = [case if other["name"] == case["name"] else other for other in before]
    cases += [] if case["name"] in names else [case]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cases": cases}, indent=1) + "\n")


def draw(results: Path, document: Path) -> None:
    """The tables between the marks in `document`."""
    marks.put(document, BEGIN, END, table.markdown(json.loads(results.read_text())))


def said(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
