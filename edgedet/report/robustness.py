"""Degradations sorted for drawing: those with a level as curves, the others one by one."""

from __future__ import annotations

from collections.abc import Iterable

from edgedet.evaluate.degrade import CLEAN

LEVELS = {
    "jpeg": "JPEG quality",
    "webp": "WebP quality",
    "resize": "resized, factor",
    "blur": "blur, sigma in px",
    "noise": "noise, sigma",
    "crop": "cropped, share of each side",
    "roundtrip": "shrunk to px and back",
    "brightness": "brightness, factor",
    "contrast": "contrast, factor",
}
"""Kinds whose level is one number, as an axis names it."""

UNTOUCHED = {"resize": 1.0, "blur": 0.0, "noise": 0.0, "crop": 1.0, "brightness": 1.0, "contrast": 1.0}
"""The level at which a kind does nothing: there the curve has the clean figure."""

_LEAST = 2  # levels that make a curve

Points = list[tuple[float, str]]
"""(level, condition), by level."""


def families(conditions: Iterable[str]) -> dict[str, dict[str, Points]]:
    """By kind and, where it has one, interpolation: the conditions that make a curve, by level; kinds of one level are none."""
    found: dict[str, dict[str, Points]] = {}
    for name in conditions:
        kind, level, variant = _parts(name)
        if kind and level is not None:
            found.setdefault(kind, {}).setdefault(variant, []).append((level, name))
    curves = {kind: {key: sorted(points) for key, points in lines.items()} for kind, lines in found.items()}
    return {kind: lines for kind, lines in curves.items() if max(map(len, lines.values())) >= _LEAST}


def others(conditions: Iterable[str]) -> list[str]:
    """Those that are in no curve, but for the clean one."""
    names = list(conditions)
    drawn = {name for lines in families(names).values() for points in lines.values() for _, name in points}
    return [name for name in names if name not in drawn and name != CLEAN]


def _parts(name: str) -> tuple[str, float | None, str]:
    """``resize-0.5-bilinear`` as kind, level and variant; no level when it has none or two."""
    kind, _, rest = name.partition("-")
    number, _, variant = rest.partition("-")
    if kind not in LEVELS:
        return "", None, ""
    try:
        return kind, float(number), variant
    except ValueError:
        return "", None, ""
