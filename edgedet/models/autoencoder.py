"""Latent autoencoders from safetensors files, as functions of pixels (needs torch and diffusers).

Two forms: a folder in diffusers' format, ``config.json`` beside one safetensors file, of the class AutoencoderKL (the ones that
Stable Diffusion, SDXL, SD 3 and FLUX.1 come with) or AutoencoderTiny; and the tiny distilled ones in their authors' format,
``NAME_encoder.safetensors`` and ``NAME_decoder.safetensors`` (TAESD and its siblings, Ollin Boer Bohan, MIT).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgedet.artifact import sha256_of
from edgedet.data.labels import KNOWN
from edgedet.data.layouts import SPLIT_NAMES
from edgedet.data.pairs import CAMERA
from edgedet.errors import ModelError

if TYPE_CHECKING:
    from edgedet.preprocess import Pixels

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_CLASSES = ("AutoencoderKL", "AutoencoderTiny")
_ENCODER, _DECODER = "_encoder.safetensors", "_decoder.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_INSTALL = "pip install 'edgedet[reconstruct]'"


@dataclass(frozen=True)
class Source:
    """An autoencoder on disk. name: of the generator that it stands for; files: its weights, and its config when it has one."""

    name: str
    files: tuple[Path, ...]

    def digest(self) -> str:
        """What its files hold, for a record of what was used."""
        return "+".join(sha256_of(file)[:16] for file in self.files)


@dataclass(frozen=True)
class Autoencoder:
    """``module`` is diffusers' own: ``encode`` and ``decode`` of values in [-1, 1]."""

    name: str
    module: Any
    device: torch.device

    def __call__(self, pixels: Pixels) -> Pixels:
        """uint8 (B, H, W, 3), sides multiples of 8, through the latent space and back, without any noise.

        Raises:
            ModelError: there is not enough memory for a batch of this size.
        """
        x_nchw = torch.tensor(pixels, device=self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        try:
            with torch.inference_mode():
                decoded = self.module.decode(_latents(self.module.encode(x_nchw))).sample
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            size = "x".join(map(str, pixels.shape[:3]))
            raise ModelError(f"{self.name}: no memory for a batch of {size}: set crop, or lower batch or largest") from error
        levels: Tensor = ((decoded + 1) * 127.5).round().clamp(0, 255)
        return np.ascontiguousarray(levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def _latents(encoded: Any) -> Tensor:
    """The code itself, or the mode of its distribution: nothing is drawn."""
    latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return latents


def sources(given: Sequence[str]) -> list[Source]:
    """What ``[NAME=]PATH`` stands for, each; a folder of tiny ones stands for all of them.

    Raises:
        ModelError: nothing there, a name that cannot be a folder of a data set, or the same name twice.
    """
    found = [source for one in given for source in _sources(one)]
    for source in found:
        if not _NAME.fullmatch(source.name) or source.name.casefold() in {*SPLIT_NAMES, *KNOWN, CAMERA}:
            raise ModelError(f"{source.name!r} cannot be an autoencoder's name, it is a folder's in the set: write NAME=PATH")
    names = [source.name for source in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice or not found:
        raise ModelError(f"two autoencoders are called {twice!r}: write NAME=PATH" if twice else "no autoencoder is given")
    return found


def _sources(given: str) -> list[Source]:
    name, equals, path = given.partition("=")
    if not equals or "/" in name:
        name, path = "", given
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    if place.name.endswith((_ENCODER, _DECODER)) and place.is_file():
        found = [_tiny(place)]
    elif (folder / CONFIG).is_file() and (place.is_dir() or place.name in (CONFIG, WEIGHTS)):
        found = [_in_folder(folder)]
    elif place.is_dir():
        found = [_tiny(encoder) for encoder in sorted(place.glob(f"*{_ENCODER}"))]
    else:
        found = []
    if not found:
        raise ModelError(
            f"{place}: no autoencoder there: give a folder with {CONFIG} and a safetensors file, or NAME{_ENCODER} "
            f"beside NAME{_DECODER}"
        )
    if name and len(found) > 1:
        raise ModelError(f"{given}: one name for {len(found)} autoencoders: leave it out, or name each file")
    return [Source(name or source.name, source.files) for source in found]


def _tiny(half: Path) -> Source:
    name = half.name.removesuffix(_ENCODER).removesuffix(_DECODER)
    files = half.with_name(name + _ENCODER), half.with_name(name + _DECODER)
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file}: is missing: an autoencoder is an encoder and a decoder")
    return Source(name, files)


def _in_folder(folder: Path) -> Source:
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: expected {WEIGHTS} beside {CONFIG}: that is how diffusers names an autoencoder's weights")
    resolved = folder.resolve()
    name = resolved.parent.name if resolved.name == "vae" else resolved.name
    return Source(name, (folder / CONFIG, folder / WEIGHTS))


def load(source: Source) -> Autoencoder:
    """The autoencoder on the first CUDA device when there is one, in float32.

    Raises:
        ModelError: diffusers is not installed, or the files are not those of such an autoencoder.
    """
    try:
        module = _from_folder(source) if source.files[0].name == CONFIG else _from_halves(source)
    except ModuleNotFoundError as error:
        raise ModelError(f"latent autoencoders need {error.name}, which is not installed: {_INSTALL}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Autoencoder(source.name, module.eval().float().to(device), device)


def _from_folder(source: Source) -> nn.Module:
    import diffusers

    config, weights = source.files
    try:
        kind = msgspec.json.decode(config.read_bytes(), type=dict[str, Any]).get("_class_name")
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{config}: cannot be read: {error}") from error
    if kind not in _CLASSES:
        raise ModelError(f"{config}: describes a {kind or 'nameless class'}, expected {' or '.join(_CLASSES)}")
    try:
        # Without accelerate, diffusers warns that it cannot save memory while it loads.
        module: nn.Module = getattr(diffusers, kind).from_pretrained(
            str(config.parent), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except Exception as error:  # diffusers raises many kinds, some with pages of text
        raise ModelError(f"{weights}: does not fit its {CONFIG}: {_line(error)}") from error
    return module


def _from_halves(source: Source) -> nn.Module:
    import diffusers

    encoder, decoder = (_tensors(file) for file in source.files)
    first, last = encoder.get("0.weight"), encoder.get("14.weight")
    if first is None or last is None:
        raise ModelError(f"{source.files[0]}: not the encoder of a tiny autoencoder: it has no 0.weight and 14.weight")
    width = (first.shape[0],) * 4
    module: nn.Module = diffusers.AutoencoderTiny(
        encoder_block_out_channels=width, decoder_block_out_channels=width, latent_channels=last.shape[0]
    )
    # diffusers bounds the latents outside of its list of layers, where the file counts that as the first.
    state = {f"encoder.layers.{name}": tensor for name, tensor in encoder.items()}
    state |= {f"decoder.layers.{_one_less(name)}": tensor for name, tensor in decoder.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{source.files[0]} and its decoder: not those of a tiny autoencoder: {_line(error)}") from error
    return module


def _one_less(name: str) -> str:
    number, dot, rest = name.partition(".")
    return f"{int(number) - 1}{dot}{rest}" if number.isdigit() else name


def _tensors(file: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Mapping[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from error
    return tensors


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
