"""Measuring artifacts: ``edgedet eval | bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from edgedet.artifact import Artifact, Figures, Gate
from edgedet.cli.common import Data, GateFile, Json, data_of, gates_of, show, warn, write_text
from edgedet.errors import BenchError, GateFailed, UsageError

if TYPE_CHECKING:
    from edgedet.data.index import Index
    from edgedet.evaluate.gates import GateResult
    from edgedet.evaluate.slices import Evaluation


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("eval")(evaluate)
    app.command("bench")(bench)


def evaluate(
    artifact: Annotated[Path, typer.Argument(help="The artifact to evaluate.")],
    data: Data = None,
    split: Annotated[str, typer.Option(help="val, or test, which is reported once and never gated.")] = "val",
    degrade: Annotated[list[str] | None, typer.Option("--degrade", help="As in jpeg-60, web; robustness is a sweep.")] = None,
    against: Annotated[Path | None, typer.Option("--against", help="An artifact to compare verdicts with.")] = None,
    gate: GateFile = None,
    json: Json = None,
) -> None:
    """Measure accuracy overall and per generator, clean and degraded, at the stored threshold."""
    from edgedet.data import audit
    from edgedet.evaluate import gates, slices

    wanted = _wanted(gate, split, against)
    conditions = ["clean", *_conditions(degrade or ()), *gates.conditions(wanted)]
    slices.require_conditions(conditions)
    subject = Artifact.load(artifact)
    other = Artifact.load(against) if against else None
    whole = data_of(data)
    images = whole.split(split)
    found = slices.evaluate_all(subject, images, conditions)
    theirs = slices.evaluate_all(other, images, conditions) if other else None
    results = gates.check(wanted, found, parent=theirs, ancestor=theirs) if wanted else []
    _report(subject, found, other, theirs, results, json, audit.headline(whole))
    broken = gates.failed(results)
    if broken:
        raise GateFailed(f"{artifact}: {len(broken)} of {len(results)} gates failed: {'; '.join(each.text for each in broken)}")


def _conditions(names: Sequence[str]) -> list[str]:
    """`names`, with the whole sweep in the place of its name."""
    from edgedet.evaluate.degrade import ROBUSTNESS

    return [each for name in names for each in (ROBUSTNESS if name == "robustness" else (name,))]


def _wanted(gate: Path | None, split: str, against: Path | None) -> Sequence[Gate]:
    """The gates to test; what cannot be tested as asked is refused before anything is measured."""
    wanted = gates_of(gate) if gate else ()
    if wanted and split != "val":
        raise UsageError("gates are tested on --split val: train was learned, and test is reported once and decides nothing")
    compared = [each for each in wanted if each.metric == "flip_rate" or each.against != "absolute"]
    if compared and against is None:
        raise UsageError(f"{gate}: {len(compared)} of its gates compare with another artifact: give it with --against")
    return wanted


def _report(
    subject: Artifact,
    found: Mapping[str, Evaluation],
    other: Artifact | None,
    theirs: Mapping[str, Evaluation] | None,
    results: Sequence[GateResult],
    json: str | None,
    audited: str,
) -> None:
    from edgedet.evaluate import gates, slices
    from edgedet.evaluate.tables import evaluation_table, in_words, percent

    evaluations = {name: each.plain() for name, each in found.items()}
    record: Figures = {"artifact": subject.digest, "audit": audited, "evaluations": evaluations}
    shown: list[RenderableType] = [audited, *(evaluation_table(each) for each in found.values())]
    if other and theirs:
        flips = {name: slices.flips(found[name], theirs[name]) for name in found}
        shown += [f"verdict flips against {other.path}, {name}: {percent(flip)} %" for name, flip in flips.items()]
        discordant = {name: slices.mcnemar(found[name], theirs[name]) for name in found}
        shown += [f"McNemar against {other.path}, {name}: {in_words(each)}" for name, each in discordant.items()]
        record |= {"against": other.digest, "flips": flips, "mcnemar": discordant}
    if results:
        shown.append(gates.table(results))
        record["gates"] = [{"gate": gates.describe(each.gate), "outcome": each.outcome, "text": each.text} for each in results]
    show(*shown, json=json, record=record)


def bench(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifacts; speed-ups are over the first.")],
    data: Data = None,
    split: Annotated[str, typer.Option(help="The split of --data that accuracy and end-to-end time are measured on.")] = "val",
    runtime: Annotated[
        list[str] | None, typer.Option(help="auto measures and takes the fastest; given several times, a row on each.")
    ] = None,
    reference: Annotated[str, typer.Option(help="Whose published figures are set beside; none for none.")] = "rtx-3090",
    anchor: Annotated[bool, typer.Option(help="Measure ResNet-50 at 224 px too, FP32 and INT8.")] = True,
    threads: Annotated[int, typer.Option(min=0, help="Threads for all; 0 measures each artifact's best.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Per artifact and scenario.")] = 10.0,
    record: Annotated[Path | None, typer.Option(help="Append the result lines to this file of JSON lines.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Keep every timed call in this .npz file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
    json: Json = None,
) -> None:
    """Measure latency, throughput, memory and size in one run, and set accuracy and published figures beside them."""
    from edgedet.bench import result, stage, table
    from edgedet.evaluate import slices

    machine = None if reference == "none" else reference
    stage.require_names(runtime or ["auto"], machine)
    subjects = [Artifact.load(path) for path in artifacts]
    index = data_of(data).split(split) if data else None
    rows = stage.run(
        subjects,
        anchor=_anchors() if anchor else (),
        data=index,
        runtime=runtime or "auto",
        threads=threads or "best",
        reference=machine,
        metrics=slices.beside_first(subjects, index) if index and not _measured_on(subjects, index) else None,
        seconds=seconds,
        keep=samples,
    )
    # The screen comes first: what was measured is not lost to a full disk.
    if json != "-":
        table.show(rows)
    show(json=json, record=rows)
    if record:
        result.append(record, rows)
    if markdown:
        write_text(markdown, table.markdown(rows))
    failed = [f"{row.name}: {row.error}" for row in rows if row.error]
    if failed:
        raise BenchError(f"{len(failed)} of {len(rows)} rows could not be measured: {'; '.join(failed)}")


def _measured_on(subjects: Sequence[Artifact], index: Index) -> bool:
    """Whether the manifests' own figures are those of `index`."""
    return {subject.manifest.metrics.get("index") for subject in subjects} == {index.digest}


def _anchors() -> Sequence[Artifact]:
    try:
        from edgedet.export.anchor import anchors
    except ModuleNotFoundError as error:
        warn(f"no ResNet-50 rows: making them needs {error.name}: pip install 'edgedet[train]', or pass --no-anchor")
        return ()
    return anchors()
