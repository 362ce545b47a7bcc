"""What a quantized graph's logits are worth, beside the float graph's on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from peers.contract import ONNX_RUNTIME, Logits

from comparison.case import Ready, logits_of
from edgedet import metrics


def logits(answer: dict[str, Any], ready: Ready) -> Logits:
    """(M,) on the test images: run here when the model is ONNX, else as the tool's own runtime gave them."""
    folder = Path(answer["folder"])
    if answer["runtime"] == ONNX_RUNTIME:
        return logits_of(folder / answer["model"], np.load(ready.test, mmap_mode="r"))
    found: Logits = np.load(folder / "logits.npy")
    return found


def figures(found: Logits, ready: Ready) -> dict[str, float | int]:
    """Logit error, and for a trained network its accuracy at the parent's threshold and the verdicts that it changed."""
    difference = np.abs(found.astype(np.float64) - ready.logits)
    error = {"mean_error": float(difference.mean()), "max_error": float(difference.max()), "n": len(found)}
    if not ready.case.trained:
        return error
    calibration = ready.checkpoint.manifest.calibration
    verdicts = calibration.verdict(found)
    return {
        **error,
        "auc": metrics.roc_auc(found, ready.labels),
        "balanced_accuracy": metrics.balanced_accuracy(verdicts, ready.labels),
        "flips": int((verdicts != calibration.verdict(ready.logits)).sum()),
    }
