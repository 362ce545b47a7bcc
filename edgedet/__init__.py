"""edgedet: compress a detector of AI-generated images, deploy it to edge devices, and prove what the compression cost.

The public surface is lazy: ``from edgedet import Detector`` imports neither torch nor onnxruntime until a model is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgedet.artifact import Artifact as Artifact
    from edgedet.data.index import Index as Index
    from edgedet.errors import EdgedetError as EdgedetError
    from edgedet.preprocess import Preprocess as Preprocess
    from edgedet.runtime.detector import Detector as Detector
    from edgedet.runtime.detector import Prediction as Prediction

_PUBLIC = {
    "Artifact": "edgedet.artifact",
    "Detector": "edgedet.runtime.detector",
    "EdgedetError": "edgedet.errors",
    "Index": "edgedet.data.index",
    "Prediction": "edgedet.runtime.detector",
    "Preprocess": "edgedet.preprocess",
}

__all__ = ["Artifact", "Detector", "EdgedetError", "Index", "Prediction", "Preprocess", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgedet' has no attribute {name!r}; it has: {', '.join(sorted(_PUBLIC))}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
