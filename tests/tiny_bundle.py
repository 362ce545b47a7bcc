"""A tiny exported artifact for a Jetson and labelled images to send along: real files, made in a moment."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, Golden, Graph, Manifest
from edgedet.data.index import Index, Row
from edgedet.runtime.detector import Detector
from edgedet.target import resolve

TARGET = "jetson-orin-nano"


def encoded(seed: int) -> bytes:
    """A PNG of noise, the redder the higher the seed."""
    pixels = np.random.default_rng(seed).integers(0, 200, (8, 8, 3))
    pixels[..., 0] += 3 * seed
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def exported(graph: Artifact, out: Path, *, target: str = TARGET) -> Artifact:
    """`graph` as the export stage leaves it for `target`: with golden inputs, and the parent's logits close to its own."""
    images = tuple(encoded(seed) for seed in range(16))
    pixels = np.stack([graph.manifest.preprocess(image) for image in images])
    with Detector.load(graph, threads=1) as detector:
        logits = detector.logits(pixels)
    with artifacts.writing(out) as draft:
        shutil.copy(graph.graph, draft.path / "model.onnx")
        Golden(images, pixels, logits + np.float32(1e-6), logits).save(draft.path / "golden.npz")
        draft.manifest = Manifest(
            kind="onnx",
            stage="export",
            detector=graph.manifest.detector,
            preprocess=graph.manifest.preprocess,
            calibration=graph.manifest.calibration,
            lineage=graph.lineage_for_child(),
            graphs=(
                Graph(
                    file="model.onnx",
                    inputs={"pixels": ["batch", 8, 8, 3]},
                    outputs=["logit"],
                    opset=resolve(target).opset,
                    precision="fp32",
                    target=target,
                ),
            ),
        )
    return Artifact.load(out)


def labelled(root: Path, count: int = 12) -> Index:
    """Images of a validation split, every second one a fake, which is redder."""
    rows = []
    for number in range(count):
        data = encoded(number + 40 * (number % 2))
        path = root / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        generator = "gan" if number % 2 else "camera"
        rows.append(Row(path=path.name, label=number % 2, generator=generator, split="val", format="PNG", sha256=digest))
    return Index(root, tuple(rows))
