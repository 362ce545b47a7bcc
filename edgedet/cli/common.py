"""What the commands share: options, the data set, and output for people and machines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from edgedet.artifact import Artifact, Gate
from edgedet.data.index import Index
from edgedet.errors import EdgedetError, UsageError
from edgedet.recipe import Config, parse

DATA_VARIABLE = "EDGEDET_DATA"

Data = Annotated[
    str | None,
    typer.Option("--data", envvar=DATA_VARIABLE, help="A folder in a known layout, an index, or an archive of such a folder."),
]
Out = Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist.")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the same as JSON; - is stdout.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run of this command stopped.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys to set.")]
GateFile = Annotated[Path | None, typer.Option("--gate", metavar="FILE", help="Gates to test instead of the artifact's own.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads in the runtime; all cores when left out.")]


def leads() -> bool:
    """Whether this process speaks for the command: alone, or the first of those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def show(*renderables: RenderableType, json: str | None = None, record: Any = None) -> None:
    """Print for people, unless the JSON goes to stdout; write `record` where `json` says; torchrun's followers are silent."""
    if not leads():
        return
    if json != "-":
        console = Console()
        for renderable in renderables:
            if isinstance(renderable, str):  # printed as it is: what looks like markup in a path is part of the path
                console.print(Text(renderable), soft_wrap=True)
            else:
                console.print(renderable)
    if json:
        write_json(json, record)


def write_json(where: str, record: Any) -> None:
    """`record` as indented JSON to a file, or to stdout for ``-``.

    Raises:
        EdgedetError: the file cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(record), indent=2).decode()
    if where == "-":
        print(text)
    else:
        write_text(Path(where), text + "\n")


def write_text(path: Path, text: str) -> None:
    """A small file for people or machines; an older one is replaced by the whole of it, or kept.

    Raises:
        EdgedetError: it cannot be written.
    """
    from edgedet.data.store import partial

    target = Path(os.path.realpath(path))  # of a link, what it leads to
    temporary = partial(target)
    try:
        if target.exists() and not target.is_file():  # a pipe, a terminal
            target.write_text(text, encoding="utf-8")
            return
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise EdgedetError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """A table for people."""
    made = Table(title=Text(title), title_justify="left")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def data_of(given: str | None) -> Index:
    """The index behind ``--data``.

    Raises:
        UsageError: it is not given. DataError: nothing usable is there.
    """
    from edgedet.data.archive import open_data

    if not given:
        raise UsageError(f"this command needs --data (a folder, an index or an archive), or ${DATA_VARIABLE}")
    return open_data(given)


class _GateFile(Config, frozen=True, kw_only=True):
    gates: tuple[Gate, ...]


def gates_of(path: Path) -> tuple[Gate, ...]:
    """The ``[[gates]]`` of a TOML file.

    Raises:
        UsageError: it cannot be read. RecipeError: it is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no gate file can be read there: {error}") from error
    return parse(text, _GateFile, source=str(path)).gates


def report_stage(artifact: Artifact, json: str | None) -> None:
    """What a stage made: its figures, its gates, its notes; a failed gate is raised at the end, by the leading process.

    Raises:
        GateFailed: the artifact is there, but does not hold its gates.
    """
    from edgedet.cli.quantization import quantization_tables
    from edgedet.evaluate.assess import require_gates
    from edgedet.evaluate.tables import drift_table
    from edgedet.evaluate.thresholds import Drift

    metrics = artifact.manifest.metrics
    rows = [*_figures(metrics), ("size", f"{artifact.model_bytes / 1000:,.1f} kB"), ("digest", artifact.digest[:16])]
    shown: list[RenderableType] = [table(f"{artifact.path} (validation split, %)", ("figure", "value [95 %]"), rows)]
    moved = metrics.get("threshold_drift")
    shown += [drift_table([Drift(**line) for line in moved])] if moved else []
    shown += quantization_tables(metrics.get("quantization") or {})
    shown += [f"gate: {gate['text']}" for gate in metrics.get("gates", ())]
    shown += [f"note: {note}" for note in artifact.manifest.notes]
    show(*shown, json=json, record={"path": str(artifact.path), "digest": artifact.digest, "manifest": artifact.manifest})
    if leads():  # when another process fails first, torchrun ends this one before its table is out
        require_gates(artifact)


def _figures(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Those of a manifest's figures that are shown after a stage, in percent."""
    from edgedet.evaluate.tables import in_words, percent

    before = ("balanced_accuracy", "auc", "tnr", "tpr", "tpr_at_fpr1", "tpr_at_fpr5", "ece")
    after = ("flips_against_parent", "flips_against_ancestor")
    rows = [(name.replace("_", " "), percent(metrics[name])) for name in before if name in metrics]
    rows += [("worst generator", str(metrics["worst_generator"]))] if metrics.get("worst_generator") else []
    rows += [(name.replace("_", " "), percent(metrics[name])) for name in after if name in metrics]
    tests = ("mcnemar_against_parent", "mcnemar_against_ancestor")
    return rows + [(name.replace("_", " "), in_words(metrics[name])) for name in tests if name in metrics]


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"edgedet: {one_line(message)}", file=sys.stderr)


def one_line(text: str) -> str:
    """`text` on one line, whatever a file name has in it."""
    return " ".join(valid(text).split())


def valid(text: str) -> str:
    """`text` as Unicode that JSON and a terminal can hold, whatever bytes a file name has."""
    return text.encode("utf-8", "backslashreplace").decode()
