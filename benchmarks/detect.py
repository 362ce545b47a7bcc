"""How near `edgedet detect` comes to its bound on a folder: ``python benchmarks/detect.py [ARTIFACT...] [--images DIR]``.

The bound is 1 / (1 / decode + 1 / model), each measured on all cores in the same run: files to pixels without the model, and
pixels to logits without files, in the faster of two ways of using the cores. Beside it the plain loop that one would write with
Pillow and onnxruntime, one image after the other. Everything runs in turns of one run, each turn over all files.

Without artifacts ResNet-50 and the student edge224 in INT8 are taken (untrained: speed does not depend on weights); without
images, photographs that come with the packages, as JPEG of 1,280 x 1,024 (mosaics) and of 256 x 256 pixels. Writes
benchmarks/results/detect.json and draws the table of benchmarks/README.md from it.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import marks
import msgspec
import numpy as np
from PIL import Image

from edgedet.artifact import Artifact, tool_versions
from edgedet.bench import probe, statistics, table
from edgedet.bench.scenarios import Comparison, Rules, compare
from edgedet.bench.statistics import Ratio, Samples
from edgedet.cli.use import files_of
from edgedet.data.parallel import ordered, threads_for, usable_cores
from edgedet.data.simulate import golden_images
from edgedet.data.store import cache_root
from edgedet.runtime.detector import Detector

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "detect.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- detect -->", "<!-- /detect -->"
BATCH = 32
SMALL = "edge224"
COLUMNS = ("artifact", "files", "decode", "model", "bound", "detect", "share of the bound [95 %]", "plain loop", "gain [95 %]")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--draw", action="store_true", help="only draw the table")
    given = parser.parse_args(arguments)
    if not given.draw:
        artifacts = [Artifact.load(path) for path in given.artifacts] or _defaults()
        with tempfile.TemporaryDirectory() as folder:
            made = {"large": (5, 4), "small": (1, 1)}
            sets = [given.images] if given.images else [mosaics(Path(folder) / name, *size) for name, size in made.items()]
            rows = [measured(artifact, files_of([each])[0], given.rounds) for artifact in artifacts for each in sets]
        given.results.write_bytes(msgspec.json.format(msgspec.json.encode(_record(rows)), indent=2) + b"\n")
    if given.results == RESULTS:
        draw(README, msgspec.json.decode(given.results.read_bytes()))


def measured(artifact: Artifact, files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """One row: images per second of each way, and the ratios."""
    rules = Rules(seconds=0.1, min_runs=rounds, max_seconds=1e6, rounds=rounds, warmup_seconds=0, warmup_max_seconds=1.0)
    found = _compared(artifact, files, rules)
    rate = {name: len(files) / _seconds(each) for name, each in found.samples.items()}
    return {
        "name": artifact.path.name,
        "digest": artifact.digest,
        "files": len(files),
        "mean_bytes": int(np.mean([path.stat().st_size for path in files])),
        "images_per_second": rate,
        "bound": len(files) / _seconds(bound(found.samples)),
        "share": statistics.ratio(bound(found.samples), found.samples["detect"], name="bound"),
        "gain": statistics.ratio(found.samples["plain loop"], found.samples["detect"], name="plain loop"),
    }


def _seconds(samples: Samples) -> float:
    """The median of the rounds' medians."""
    return float(np.median(samples.round_medians())) / 1e9


def bound(samples: Mapping[str, Samples]) -> Samples:
    """One sample a round: the time of decoding and of the model, one after the other, each on all cores."""
    model = min(("model, spread", "model, in turns"), key=lambda name: float(np.median(samples[name].round_medians())))
    total = samples["decode"].round_medians() + samples[model].round_medians()
    return Samples(total.round().astype(np.int64), np.arange(len(total)))


def _compared(artifact: Artifact, files: Sequence[Path], rules: Rules) -> Comparison:
    cores, preprocess = usable_cores(), artifact.manifest.preprocess
    pixels = [preprocess(path) for path in files]
    batches = [np.stack(pixels[start : start + BATCH // cores]) for start in range(0, len(pixels), BATCH // cores)]
    with (
        Detector.load(artifact, runtime="onnxruntime", batch_size=BATCH) as spread,
        Detector.load(artifact, runtime="onnxruntime", batch_size=BATCH, workers=cores) as crew,
        ThreadPoolExecutor(cores) as pool,
    ):
        runners: dict[str, Callable[[], object]] = {
            "decode": lambda: list(ordered(preprocess, files, threads=threads_for(files))),
            "model, spread": lambda: spread.logits(np.stack(pixels)),
            "model, in turns": lambda: list(pool.map(crew.runtime.run, batches)),
            "detect": lambda: crew.predict(files),
            "without a crew": lambda: spread.predict(files),
            "plain loop": plain_loop(artifact, files),
        }
        return compare(runners, baseline="detect", rules=rules)


def plain_loop(artifact: Artifact, files: Sequence[Path]) -> Callable[[], list[float]]:
    """What one writes first: open, resize, run, one image at a time, with both libraries as they come."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(artifact.graph))
    name, preprocess = session.get_inputs()[0].name, artifact.manifest.preprocess
    if preprocess.geometry not in ("resize_squash", "crop_only"):
        raise SystemExit(f"{artifact.path}: the plain loop squashes or crops images, this artifact wants {preprocess.geometry}")

    def shaped(image: Image.Image) -> Image.Image:
        if preprocess.geometry == "resize_squash":
            return image.resize((preprocess.width, preprocess.height), Image.Resampling.BILINEAR)
        left, top = (image.width - preprocess.width) // 2, (image.height - preprocess.height) // 2
        return image.crop((left, top, left + preprocess.width, top + preprocess.height))

    def loop() -> list[float]:
        images = (shaped(Image.open(path).convert("RGB")) for path in files)
        return [float(session.run(None, {name: np.asarray(image)[None]})[0][0]) for image in images]

    return loop


def mosaics(folder: Path, across: int, down: int, count: int = 32) -> Path:
    """JPEG files of `across` x `down` photographs of 256 pixels each, in another order in each file."""
    tiles = [np.array(Image.open(io.BytesIO(image)).convert("RGB")) for image in golden_images()]
    folder.mkdir()
    for number in range(count):
        places = [[tiles[(number + across * y + x) % len(tiles)] for x in range(across)] for y in range(down)]
        pixels = np.concatenate([np.concatenate(row, axis=1) for row in places])
        Image.fromarray(pixels).save(folder / f"{number:03}.jpg", quality=90)
    return folder


def _defaults() -> list[Artifact]:
    """A large and a small network in INT8, untrained, made once in the cache folder."""
    from edgedet import models
    from edgedet.artifact import DetectorSpec
    from edgedet.export.anchor import anchors, as_ranges, untrained
    from edgedet.export.parity import ParityGate
    from edgedet.export.stage import ExportConfig, run

    out = cache_root() / "detect" / f"{SMALL}-int8"
    if not out.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            made = untrained(Path(folder) / "checkpoint", DetectorSpec(name=SMALL), models.lookup(SMALL).preprocess)
            config = ExportConfig(precision="int8", target="host", parity=ParityGate(), gates=())
            run(config, made, as_ranges(Path(folder)), out, assessed=False)
    return [anchors()[1], Artifact.load(out)]


def _record(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": probe.device(),
        "versions": tool_versions("pillow", "onnxruntime"),
        "rows": list(rows),
    }


def draw(readme: Path, record: Mapping[str, Any]) -> None:
    """Put the table of `record` between its marks in `readme`."""
    marks.put(readme, BEGIN, END, markdown(record))


def markdown(record: Mapping[str, Any]) -> str:
    """The table, images per second, and where it was measured."""
    device = msgspec.convert(record["device"], probe.Device)
    notes = [f"images per second, {device.name}, {device.cores} cores, {device.system}, {record['date'][:10]}"]
    notes += [f"{row['name']}: without a crew {row['images_per_second']['without a crew']:.1f}" for row in record["rows"]]
    notes += [warning] if (warning := probe.busy(device)) else []
    lines = table.grid(COLUMNS, [_cells(row) for row in record["rows"]], right=[False, False, *[True] * 7])
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    rate = row["images_per_second"]
    share, gain = (msgspec.convert(row[name], Ratio) for name in ("share", "gain"))
    return [
        row["name"],
        f"{row['files']} of {row['mean_bytes'] / 1000:.0f} kB",
        f"{rate['decode']:.1f}",
        f"{max(rate['model, spread'], rate['model, in turns']):.1f}",
        f"{row['bound']:.1f}",
        f"{rate['detect']:.1f}",
        f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]",
        f"{rate['plain loop']:.1f}",
        f"{gain.value:.2f} x [{gain.low:.2f}, {gain.high:.2f}]",
    ]


if __name__ == "__main__":
    main()
