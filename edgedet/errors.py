"""Every error edgedet raises on purpose, as one tree.

::

    EdgedetError                 exit code 1
    ├── UsageError               exit code 2   the command line does not make sense
    ├── GateFailed               exit code 3   the artifact is fine, its figures are not
    ├── RecipeError              a recipe, target or override is wrong; names file and key
    │   └── RecipeNotFound
    ├── ArtifactError            an artifact is incomplete, of another schema, or in the way
    │   └── DigestMismatch       its bytes are not those it was written with
    ├── DataError                a data set or its index cannot be used
    │   ├── UnknownLabel         a folder or label that is neither real nor fake
    │   └── ImageError           one image cannot be turned into pixels
    ├── ModelError               an unknown detector, or arguments that it does not take
    ├── TrainingError            training cannot start or cannot go on
    │   └── StateError           what is kept of a run on disk cannot be written, read or taken up
    ├── NothingToPrune           every group is protected
    ├── QuantizeError            a graph cannot be quantized as asked
    ├── ExportError              a graph does not come out as promised
    │   └── ParityError          child and parent disagree by more than the gate allows
    │       └── Collapsed        and the child no longer ranks images as the parent does
    ├── DeployError              a device cannot be reached, or does not take a bundle
    ├── ExplainError             a detector has no such map, or gives none that can be drawn
    ├── BenchError               a benchmark cannot be run as asked, or figures kept on file are not valid
    └── RuntimeUnavailable       this machine cannot run the artifact

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgedetError(Exception):
    """The base of every deliberate error; the command line prints it on one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(EdgedetError):
    """The command line does not make sense."""

    exit_code = 2


class GateFailed(EdgedetError):
    """An artifact was made, but its figures do not pass the gates that it carries."""

    exit_code = 3


class RecipeError(EdgedetError):
    """A recipe, a target or an override is wrong."""


class RecipeNotFound(RecipeError):
    """No recipe or target of that name or path."""


class ArtifactError(EdgedetError):
    """An artifact is incomplete, of another schema, or in the way."""


class DigestMismatch(ArtifactError):
    """A file of an artifact is not the one that was written."""


class DataError(EdgedetError):
    """A data set or its index cannot be used."""


class UnknownLabel(DataError):
    """A folder or a label value that is neither real nor fake."""


class ImageError(DataError):
    """One image cannot be turned into pixels."""


class ModelError(EdgedetError):
    """An unknown detector, or arguments that it does not take."""


class TrainingError(EdgedetError):
    """Training cannot start or cannot go on."""


class StateError(TrainingError):
    """What is kept of a run on disk cannot be written, read or taken up: nothing is wrong with what is trained."""


class NothingToPrune(EdgedetError):
    """Every group of channels is protected; the message lists the groups and why."""


class QuantizeError(EdgedetError):
    """A graph cannot be quantized as asked."""


class ExportError(EdgedetError):
    """A graph does not come out as promised."""


class ParityError(ExportError):
    """Child and parent disagree on the golden inputs by more than the gate allows."""


class Collapsed(ParityError):
    """So much that the child no longer ranks images as the parent does: rounding has taken what the network knew."""


class DeployError(EdgedetError):
    """A device cannot be reached, or does not take a bundle."""


class ExplainError(EdgedetError):
    """A detector has no such map, or gives none that can be drawn."""


class BenchError(EdgedetError):
    """A benchmark cannot be run as asked, or figures kept on file are not valid."""


class RuntimeUnavailable(EdgedetError):
    """This machine cannot run the artifact."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint for an error message: ``"; did you mean 'x'?"``, or a list of what is allowed when nothing is near."""
    choices = sorted(set(allowed))
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(choices)}" if choices else ""
