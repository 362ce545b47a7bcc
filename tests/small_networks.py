"""Detectors at sizes at which a test is fast."""

import inspect

from edgedet import models
from edgedet.artifact import DetectorSpec

LEAST = {"spai": 224, "spai-tiny": 224}
"""Networks that take any size from that of their patches on."""


def small(name: str, side: int) -> tuple[DetectorSpec, int]:
    """The detector `name` for images of at most `side` pixels, if it takes other than its published size, and their side."""
    line = models.lookup(name)
    published = line.preprocess.height
    if not line.own_size:
        return DetectorSpec(name=name), min(max(side, LEAST.get(name, 0)), published)
    if "side" not in inspect.signature(line.build).parameters:
        return DetectorSpec(name=name), published
    return DetectorSpec(name=name, arguments={"side": side}), side
