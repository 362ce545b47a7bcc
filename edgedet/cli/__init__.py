"""The command line: one command a stage. Exit codes: 0 done, 1 error, 2 usage, 3 a gate failed, 130 interrupted, 143 ended.

Each command prints a table for people on stdout and writes the same as JSON with ``--json FILE`` (``-`` is stdout);
progress goes to stderr. Handlers import what they need when they run: ``edgedet --help`` loads neither torch nor onnxruntime.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import typer

from edgedet import __version__
from edgedet.cli import catalogue, check, compress, data, device, estimate, explain, make, measure, report, use
from edgedet.cli.common import leads, warn
from edgedet.errors import EdgedetError

INTERRUPTED = 130
TERMINATED = 143
_SAID: dict[object, str] = {INTERRUPTED: "interrupted", TERMINATED: "ended by a signal"}

app = typer.Typer(
    name="edgedet",
    help="Compress a detector of AI-generated images, deploy it to edge devices, and prove what the compression cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@dataclass
class _Asked:
    """What was asked for before the command's name."""

    debug: bool = False


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgedet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: bool = typer.Option(False, "--debug", envvar="EDGEDET_DEBUG", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and stop."),
) -> None:
    del version
    context.ensure_object(_Asked).debug = debug
    _log_to_stderr()


for module in (catalogue, data, make, compress, measure, estimate, report, use, explain, check, device):
    module.register(app)


def main() -> None:
    """Run the command line; a deliberate error is one line on stderr and its exit code."""
    try:
        _run(_Asked())
    finally:
        _flush()


def _run(asked: _Asked) -> None:
    try:
        with _leaving_nothing_behind():
            app(prog_name="edgedet", obj=asked)
    except SystemExit as done:
        # Typer turns Ctrl-C into this code without a word.
        if done.code in _SAID:
            warn(_SAID[done.code])
        raise
    except (EdgedetError, OSError, ModuleNotFoundError) as error:
        if asked.debug or _is_ours(error):
            raise
        warn(_explained(error))
        sys.exit(error.exit_code if isinstance(error, EdgedetError) else 1)


@contextlib.contextmanager
def _leaving_nothing_behind() -> Iterator[None]:
    """SIGTERM, with which a scheduler or a container ends a command, clears away half-written files as Ctrl-C does.

    Not under torchrun: a process that waits for another would not hear of it, and must end at once.
    """
    if "RANK" in os.environ:
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_ours(error: Exception) -> bool:
    """A module of edgedet that is missing is a fault of edgedet's, not something to install."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("edgedet")


def _explained(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        needed = "pip install 'edgedet[train]' has all that training and export need"
        return f"this command needs the package {error.name!r}: {needed}"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(filter(None, (str(error.filename or ""), error.strerror)))
    return str(error) or type(error).__name__


class _Lines(logging.Handler):
    """What the package logs, as lines like those of errors."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(self.format(record))


def _log_to_stderr() -> None:
    log = logging.getLogger("edgedet")
    if not any(isinstance(handler, _Lines) for handler in log.handlers):
        log.addHandler(_Lines())
        log.setLevel(logging.INFO if leads() else logging.ERROR)


def _flush() -> None:
    """Write what is left. When the reader has gone (``| head``) nothing is left to say, and Python must not complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
