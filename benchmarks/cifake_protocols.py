"""The protocols of "Real or really fake?" on CIFAKE and beyond, for any artifact:

    python benchmarks/cifake_protocols.py ARTIFACT --sweep [CIFAKE] --cifar100 CIFAR100 --transfer AGIRI [--json FILE]

--sweep: CIFAKE's test split, leaks kept, called real where P(real) is at least 0.1, 0.2 ... 0.9; $EDGEDET_DATA if no path
    follows.
--cifar100: photographs of CIFAR-100's test split, a folder a class (or a table whose `generator` is the class). One that is
    called real counts as recognised; recall of every fine and coarse class.
--transfer: another data set of reals and fakes, such as AGIRI, in any layout; the test split where it has one. Balanced
    accuracy, and what calling everything by the larger class would give, stand beside every figure.

As in the source, the positive class is real, P(real) is the sigmoid of the raw logit, and what is not swept is decided at 0.5.
The source lost 28 % of AGIRI to files that its loader could not convert, without a word; here what is left out is counted by
class. Published figures (benchmarks/reference/cifake_protocols.json) stand beside those measured. A protocol without data is
skipped.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import RenderableType

from edgedet import metrics
from edgedet.artifact import Artifact
from edgedet.cli.common import show, table
from edgedet.data.archive import scan_data, unpacked
from edgedet.data.index import FAKE, REAL, Index
from edgedet.data.labels import LabelMap
from edgedet.data.layouts import listing
from edgedet.errors import DataError, nearest
from edgedet.evaluate.logits import logits_of
from edgedet.recipe import folder_of
from edgedet.runtime.detector import Detector

THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))
PUBLISHED_AS = {"cifake-cnn": "base", "cifake-cnn-srm": "srm"}
FIGURES = (
    "accuracy", "balanced_accuracy", "f1_real", "precision_real", "recall_real", "precision_fake", "recall_fake",
)  # fmt: skip
SWEPT = ("accuracy", "precision_real", "recall_real", "f1_real")

Mask = npt.NDArray[np.bool_]
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--sweep", metavar="CIFAKE", nargs="?", const="")
    parser.add_argument("--cifar100", metavar="DATA")
    parser.add_argument("--transfer", metavar="DATA")
    parser.add_argument("--published", choices=("base", "srm", "mini"), help="whose figures to show; the detector's by default")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    wanted = {
        "sweep": (sweep, None if given.sweep is None else given.sweep or os.environ.get("EDGEDET_DATA")),
        "cifar100": (cifar100, given.cifar100),
        "transfer": (transfer, given.transfer),
    }
    artifact = Artifact.load(given.artifact)
    name = given.published or PUBLISHED_AS.get(artifact.manifest.detector.name, "")
    results: dict[str, Row] = {}
    with Detector.load(artifact) as detector:
        for protocol, (run, data) in wanted.items():
            if not data:
                print(f"{protocol}: skipped: give --{protocol} its data")
                continue
            results[protocol] = {"data": Path(data).name, **run(detector, data), "published": published(protocol, name)}
            show(*TABLES[protocol](results[protocol]))
    if given.json:
        record = {"artifact": artifact.digest, "detector": artifact.manifest.detector.name, "protocols": results}
        Path(given.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def reference(name: str) -> Any:
    """A file of benchmarks/reference, as data."""
    return json.loads((folder_of("benchmarks/reference") / name).read_text(encoding="utf-8"))


def published(protocol: str, name: str) -> Any:
    """The source's figures of the network that it calls `name`; None when it has none."""
    return reference("cifake_protocols.json")[protocol].get(name)


def is_real(logits: npt.NDArray[np.float32], threshold: float = 0.5) -> Mask:
    """(N,): whether P(real), the sigmoid of minus the logit of fake, is at least `threshold`."""
    return np.asarray(logits.astype(np.float64) <= np.log1p(-threshold) - np.log(threshold))


def figures(called_real: Mask, labels: npt.NDArray[np.int64]) -> Row:
    """The figures of both classes, in percent; `called_real` and `labels` (N,), fake = 1."""
    real, fake = labels == REAL, labels == FAKE
    found = {
        "accuracy": metrics.accuracy(called_real, real),
        "balanced_accuracy": metrics.balanced_accuracy(called_real, real),
        "f1_real": metrics.f1(called_real, real),
        "precision_real": metrics.precision(called_real, real),
        "recall_real": metrics.tpr(called_real, real),
        "precision_fake": metrics.precision(~called_real, fake),
        "recall_fake": metrics.tpr(~called_real, fake),
    }
    return {name: round(100 * value, 2) for name, value in found.items()}


def sweep(detector: Detector, data: str) -> Row:
    """The figures of CIFAKE's test split at every threshold."""
    test, lost = opened(data, split="test")
    logits = logits_of(detector, test)
    rows = [{"threshold": threshold, **figures(is_real(logits, threshold), test.labels)} for threshold in THRESHOLDS]
    return {"n": len(test), "left_out": lost, "rows": rows}


def transfer(detector: Detector, data: str) -> Row:
    """The figures of another data set, and of calling all of it by its larger class."""
    test, lost = opened(data, split="test")
    counts = {"real": int((test.labels == REAL).sum()), "fake": int((test.labels == FAKE).sum())}
    larger = max(counts, key=lambda name: counts[name])
    guessed = np.full(len(test), larger == "real")
    return {
        "n": len(test),
        "counts": counts,
        "left_out": lost,
        "measured": figures(is_real(logits_of(detector, test)), test.labels),
        "majority": {"class": larger, **figures(guessed, test.labels)},
    }


def cifar100(detector: Detector, data: str) -> Row:
    """The share of photographs that are called real, of all and of every class of CIFAR-100."""
    coarse_of = {fine: coarse for coarse, names in reference("cifar100_classes.json")["classes"].items() for fine in names}
    photographs, lost = opened(data, label_map=dict.fromkeys(coarse_of, REAL))
    if photographs.labels.any():
        raise DataError(f"{data}: expected photographs only, got {int(photographs.labels.sum())} fakes")
    fine = [class_of(row.generator, row.path, coarse_of) for row in photographs.rows]
    called_real = is_real(logits_of(detector, photographs))
    return {
        "n": len(photographs),
        "left_out": lost,
        "accuracy": round(100 * float(called_real.mean()), 2),
        "coarse": recalls([coarse_of[name] for name in fine], called_real),
        "fine": recalls(fine, called_real),
    }


def class_of(generator: str, path: str, classes: Mapping[str, str]) -> str:
    """The class that a table's `generator` or the innermost folder of `path` names.

    Raises:
        DataError: neither is a class.
    """
    names = (generator, *reversed(PurePosixPath(path).parts[:-1]))
    plain = [name.casefold().replace(" ", "_").replace("-", "_") for name in names]
    found = next((name for name in plain if name in classes), None)
    if found is None:
        raise DataError(f"{path}: is of no class of CIFAR-100{nearest(plain[0], classes)}")
    return found


def recalls(classes: Sequence[str], called_real: Mask) -> dict[str, float]:
    """Class -> the percentage of its photographs that are called real, the best first."""
    names = np.array(classes)
    found = {name: round(100 * float(called_real[names == name].mean()), 2) for name in sorted(set(classes))}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def opened(data: str, *, split: str = "", label_map: Mapping[str, int] | None = None) -> tuple[Index, dict[str, int]]:
    """The images of `data` (of one split, where it has that), leaks kept, and how many of each class are left out.

    What cannot be read is left out, and what lies among the reals and among the fakes.
    """
    found = scan_data(data, keep_leaks=True, shares={}, label_map=label_map)
    index, there = found.index, listing(unpacked(Path(data)), LabelMap.extended(label_map)).rows
    if split and any(row.split == split for row in there):
        index = index.where(lambda row: row.split == split)
        there = [row for row in there if row.split == split]
    label_of = {row.path: ("real", "fake")[row.label] for row in there}
    lost = Counter(label_of[path] for path, _ in found.errors if path in label_of)
    return index, {name: lost[name] for name in ("real", "fake")}


def sweep_tables(found: Row) -> list[RenderableType]:
    """A row for each threshold; the published figures in brackets."""
    known = {row["threshold"]: row for row in found["published"] or ()}
    rows = [
        (f"{row['threshold']:.1f}", *(_beside(row[name], known.get(row["threshold"], {}).get(name)) for name in SWEPT))
        for row in found["rows"]
    ]
    columns = ("P(real) from", *(f"{name.replace('_', ' ')} %" for name in SWEPT))
    return [table(_title("sweep", found), columns, rows, right=columns[1:])]


def transfer_tables(found: Row) -> list[RenderableType]:
    """What was measured, what guessing gives, and what was published."""
    lines = {"measured": found["measured"], f"all called {found['majority']['class']}": found["majority"]}
    notes: list[RenderableType] = []
    if found["published"]:
        theirs = found["published"]
        balanced = (theirs["recall_real"] + theirs["recall_fake"]) / 2
        lines[f"published, n = {theirs['n']:,}"] = {**theirs, "balanced_accuracy": balanced}
        notes = ["balanced accuracy of the published line: estimated, the mean of its recalls"]
    rows = [(key.replace("_", " "), *(f"{line[key]:.2f}" for line in lines.values())) for key in FIGURES]
    columns = ("%", *lines)
    return [table(_title("transfer", found), columns, rows, right=columns[1:]), *notes]


def cifar100_tables(found: Row) -> list[RenderableType]:
    """Accuracy, the extremes of both levels, and every coarse class."""
    known = found["published"] or {}
    rows = [("accuracy", _beside(found["accuracy"], known.get("accuracy")), "")]
    for level in ("coarse", "fine"):
        ends = (("best", 0), ("worst", -1))
        for word, place in ends:
            name, value = list(found[level].items())[place]
            theirs = known.get(f"{level}_{word}")
            rows.append((f"{word} {level} class", f"{name} {value:.1f}", f"{theirs[0]} {theirs[1]:.1f}" if theirs else ""))
    summary = table(_title("CIFAR-100", found), ("recall of real, %", "measured", "published"), rows)
    coarse = [(name, f"{value:.1f}") for name, value in found["coarse"].items()]
    return [summary, table("coarse classes", ("class", "recall %"), coarse, right=("recall %",))]


TABLES = {"sweep": sweep_tables, "transfer": transfer_tables, "cifar100": cifar100_tables}


def _title(protocol: str, found: Row) -> str:
    lost = ", ".join(f"{count:,} {name}" for name, count in found["left_out"].items())
    return f"{protocol}: {found['n']:,} images of {found['data']}; left out, and in no figure: {lost}"


def _beside(value: float, theirs: float | None) -> str:
    return f"{value:.2f}" if theirs is None else f"{value:.2f} ({theirs:.2f})"


if __name__ == "__main__":
    main()
