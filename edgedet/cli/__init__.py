"""The command line: one command a stage. Exit codes: 0 done, 1 error, 2 usage, 3 a gate failed, 130 interrupted.

Each command prints a table for people on stdout and writes the same as JSON with ``--json FILE`` (``-`` is stdout);
progress goes to stderr. Handlers import what they need when they run: ``edgedet --help`` loads neither torch nor onnxruntime.
"""

from __future__ import annotations

import os
import sys

import typer

from edgedet import __version__
from edgedet.cli import catalogue, data, make, measure, use
from edgedet.errors import EdgedetError

app = typer.Typer(
    name="edgedet",
    help="Compress a detector of AI-generated images, deploy it to edge devices, and prove what the compression cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgedet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and stop."),
) -> None:
    del version
    if debug:
        os.environ["EDGEDET_DEBUG"] = "1"


for module in (catalogue, data, make, measure, use):
    module.register(app)


def main() -> None:
    """Run the command line; a deliberate error is one line on stderr and its exit code."""
    try:
        app()
    except EdgedetError as error:
        if os.environ.get("EDGEDET_DEBUG"):
            raise
        print(f"edgedet: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if os.environ.get("EDGEDET_DEBUG") or (error.name or "").startswith("edgedet"):
            raise
        print(
            f"edgedet: this command needs the package {error.name!r}: pip install 'edgedet[train]' has all that training "
            "and export need",
            file=sys.stderr,
        )
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say, and Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("edgedet: interrupted", file=sys.stderr)
        sys.exit(130)
