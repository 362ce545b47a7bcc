"""Everything known of a folder on one page: ``edgedet report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedet.cli.common import Json, show, write_text


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("report")(report)


def report(
    folder: Annotated[Path, typer.Argument(help="Artifacts, result lines, and the JSON of eval and audit, at any depth.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write; it needs nothing else.")] = Path("report.html"),
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
    json: Json = None,
) -> None:
    """Draw tables, curves, lineage and environment of what lies in a folder as one HTML file."""
    from edgedet.report import build, render

    made = build.build(folder)
    write_text(out, render.html(made))
    if markdown:
        write_text(markdown, render.markdown(made))
    counts = f"{len(made.runs)} benchmarks, {len(made.subjects)} artifacts"
    show(f"{out}: {counts}", *(f"not in it: {line}" for line in made.missing), json=json, record=made)
