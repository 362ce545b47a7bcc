"""Checking graphs, ours or not: ``edgedet lint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedet.cli.common import Json, show, table


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("lint")(lint)


def lint(
    graph: Annotated[Path, typer.Argument(help="An ONNX file.")],
    target: Annotated[str, typer.Option(help="A target that runs TensorRT.")] = "rtx-3090",
    json: Json = None,
) -> None:
    """Hold an ONNX graph against TensorRT's rules: what it refuses or runs slowly, and how to mend it. Exits 1 on an error."""
    from edgedet.export.lint import lint_file
    from edgedet.target import load

    findings = lint_file(graph, load(target))
    rows = [(each.level, each.rule, each.node, f"{each.why}; {each.mend}") for each in findings]
    errors = sum(each.level == "error" for each in findings)
    summary = f"{graph} for {target}: {errors} errors, {len(findings) - errors} warnings"
    shown = [table("findings", ("level", "rule", "node", "why, and how to mend it"), rows)] if rows else []
    show(*shown, summary, json=json, record={"graph": str(graph), "target": target, "findings": findings})
    if errors:
        raise typer.Exit(1)
