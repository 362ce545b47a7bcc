"""Matplotlib figures as SVG that lies in a page: its text is text, its colours are the page's, dark or light.

Figures are drawn in colours that stand for the page's variables and are exchanged afterwards; matplotlib knows no variables.
"""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

INK, FAINT, PAPER = "#010203", "#040506", "#fcfdfe"
SERIES = tuple(f"#0a0b{number:02x}" for number in range(8))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgedet",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.0,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
}


def styled(plot: Callable[P, T]) -> Callable[P, T]:
    """`plot`, run with the report's style in place of the user's.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """

    @functools.wraps(plot)
    def drawn(*arguments: P.args, **named: P.kwargs) -> T:
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return plot(*arguments, **named)

    return drawn


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure of this many inches, and its axes by row; within :func:`styled`."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    return made, list(made.subplots(rows, columns, squeeze=False).flat)


def colour(number: int) -> str:
    """The colour of the series of that number; after eight they repeat, with other markers (:func:`marker`)."""
    return SERIES[number % len(SERIES)]


def marker(number: int) -> str:
    """The marker of the series of that number."""
    return MARKERS[(number + number // len(SERIES)) % len(MARKERS)]


def inline(made: Any, name: str, label: str) -> str:
    """`made` as an ``<svg>`` element: its ids begin with `name`, and `label` is what a screen reader says."""
    file = io.StringIO()
    made.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    for drawn, variable in _VARIABLES.items():
        text = text.replace(drawn, variable)
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', text)
    width = float(size[1]) if size else 480.0
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}" style="max-width: {width:.0f}pt"', 1)
