"""Text that is drawn into a document: it stands between two marks, and everything around them is kept."""

from __future__ import annotations

from pathlib import Path


def put(document: Path, begin: str, end: str, drawn: str) -> None:
    """Write `drawn`, which ends in a line feed, between the marks `begin` and `end` of `document`, for what is there."""
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    document.write_text(f"{before}{begin}\n{drawn}{end}{after}", encoding="utf-8")
