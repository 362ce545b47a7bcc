"""Folder and column names to labels: an explicit map, never the alphabetical order of folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgedet.data.index import FAKE, LABELS, REAL, UNLABELLED
from edgedet.errors import DataError, UnknownLabel

KNOWN: Mapping[str, int] = MappingProxyType(
    {
        "real": REAL, "nature": REAL, "0_real": REAL,
        "fake": FAKE, "ai": FAKE, "1_fake": FAKE,
        "unlabelled": UNLABELLED, "unlabeled": UNLABELLED,
    }
)  # fmt: skip

_IN_TABLES = {"0": REAL, "1": FAKE, "false": REAL, "true": FAKE}
"""In a column the label may also be written as this toolkit's convention, fake = 1; a folder called ``0`` says too little."""


@dataclass(frozen=True)
class LabelMap:
    """Names, in any case, to real = 0 and fake = 1."""

    names: Mapping[str, int]

    @classmethod
    def extended(cls, more: Mapping[str, int] | None = None) -> LabelMap:
        """The known names and `more`, which win.

        Raises:
            DataError: a label that is neither 0 (real) nor 1 (fake).
        """
        for name, label in (more or {}).items():
            if label not in (REAL, FAKE):
                raise DataError(f"label map: {name!r} is mapped to {label!r}; a label is 0 (real) or 1 (fake)")
        return cls({**KNOWN, **{name.casefold(): label for name, label in (more or {}).items()}})

    def get(self, name: str) -> int | None:
        """The label that a folder called `name` stands for, None when it is not a label's name."""
        return self.names.get(name.casefold())

    def of_value(self, value: str, where: str) -> int:
        """The label that a table's cell stands for.

        Raises:
            UnknownLabel: names `where` and what is allowed.
        """
        label = self.names.get(value.strip().casefold(), _IN_TABLES.get(value.strip().casefold()))
        if label is None:
            raise UnknownLabel(f"{where}: label {value!r} is neither real nor fake; {self.allowed()}, or 0 and 1 (fake)")
        return label

    def unknown_folder(self, folder: str) -> UnknownLabel:
        """The error for images below `folder`, none of whose names is a label's."""
        return UnknownLabel(
            f"{folder}: holds images, but no folder name on the way says whether they are real or fake; {self.allowed()}; "
            "rename the folder, or add its name to the label map"
        )

    def allowed(self) -> str:
        """What is known, for a message."""
        of = {label: ", ".join(sorted(name for name, to in self.names.items() if to == label)) for label in LABELS}
        return f"known for real: {of[REAL]}; for fake: {of[FAKE]}; for neither: {of[UNLABELLED]}"
