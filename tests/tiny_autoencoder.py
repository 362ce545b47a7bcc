"""Tiny latent autoencoders of random weights, in the files that their authors use; the network is written out.

As a script it is a reconstruction in a process of its own, which tests kill.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

WIDTH = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Bound(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def conv(inputs: int, outputs: int, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def encoder(latent: int) -> nn.Sequential:
    down = [layer for _ in range(3) for layer in (conv(WIDTH, WIDTH, stride=2, bias=False), Block(), Block(), Block())]
    return nn.Sequential(conv(3, WIDTH), Block(), *down, conv(WIDTH, latent))


def decoder(latent: int) -> nn.Sequential:
    up = [
        layer
        for _ in range(3)
        for layer in (Block(), Block(), Block(), nn.Upsample(scale_factor=2), conv(WIDTH, WIDTH, bias=False))
    ]
    return nn.Sequential(Bound(), conv(latent, WIDTH), nn.ReLU(), *up, Block(), conv(WIDTH, 3))


def write(folder: Path, name: str, latent: int = 4, seed: int = 0) -> tuple[nn.Module, Path]:
    """The network (values in [0, 1] to the same) and the file of its encoder; the decoder lies beside it."""
    torch.manual_seed(seed)
    halves = encoder(latent), decoder(latent)
    for layer in (layer for half in halves for layer in half.modules() if isinstance(layer, nn.Conv2d)):
        layer.weight.data *= 2  # else nearly nothing of the picture is left
    nn.init.constant_(halves[1][-1].bias, 0.5)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}_{half}.safetensors" for half in ("encoder", "decoder")]
    for half, path in zip(halves, paths, strict=True):
        save_file({key: tensor.to(torch.bfloat16) for key, tensor in half.state_dict().items()}, path)
        half.load_state_dict({key: tensor.to(torch.bfloat16).float() for key, tensor in half.state_dict().items()})
    return nn.Sequential(*halves).eval(), paths[0]


def photograph(height: int, width: int, seed: int, kind: str = "JPEG") -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def photographs(folder: Path, count: int, height: int = 60, width: int = 80) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03}.jpg").write_bytes(photograph(height, width, number))
    return folder


if __name__ == "__main__":
    from edgedet.data.scan import scan
    from edgedet.models.autoencoder import sources
    from edgedet.models.reconstruct import ReconstructConfig, run

    torch.set_num_threads(1)
    photos, autoencoders, out = map(Path, sys.argv[1:])
    found = scan(photos, unlabelled=0)
    run(ReconstructConfig(crop=32, batch=1), found, sources([str(autoencoders)]), out, resume=True)
