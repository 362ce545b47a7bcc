"""The work of every published network: ``python benchmarks/architectures.py`` writes reference/architectures.csv.

Networks are made on torch's device ``meta``, without weights, in the form in which they are published (branches not merged).
"""

from __future__ import annotations

import csv
import sys
import warnings
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from edgedet.bench import published, reference
from edgedet.models.work import of_pass
from edgedet.work import Work

REFERENCE = Path(__file__).parent / "reference"
RESIZED = ("deit", "swin", "vit")
"""Architectures of timm that are made for one image size, which has to be said."""


def wanted() -> list[tuple[str, int, int]]:
    """Architecture, height and width of every published row that names one."""
    sizes = {(row.architecture, row.height, row.width) for row in published.latencies() if row.architecture}
    sizes |= {(f"timm/{row.model}", row.img_size, row.img_size) for row in reference.load("rtx-3090")}
    return sorted(sizes)


def counted(architecture: str, height: int, width: int) -> Work:
    """The work of one image through `architecture`, ``timm/<name>`` or ``torchvision/<name>``."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that timm has given up
        net = _made(architecture, height, width)
    return of_pass(net, torch.zeros(1, 3, height, width, device="meta"))


def _made(architecture: str, height: int, width: int) -> nn.Module:
    library, name = architecture.split("/")
    if library == "torchvision":
        net: nn.Module = torchvision.models.get_model(name, weights=None)
        return net
    size = {"img_size": (height, width)} if name.startswith(RESIZED) else {}
    return timm.create_model(name, **size)


def main() -> None:
    """Write the file."""
    names = published.ArchitectureRow.__struct_fields__
    with (REFERENCE / published.ARCHITECTURES).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for architecture, height, width in wanted():
            work = counted(architecture, height, width)
            figures = (f"{getattr(work, name):.0f}" for name in Work.__struct_fields__)
            writer.writerow([architecture, height, width, *figures])
            print(architecture, height, width, file=sys.stderr)


if __name__ == "__main__":
    main()
