"""Latent autoencoders from their files: the same values as the network written out, and a reason for what is refused."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
import tiny_autoencoder as tiny
import torch

from edgedet.errors import ModelError
from edgedet.models import autoencoder


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def pixels(batch=2, height=24, width=16):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("latent", [4, 16])
def test_pixels_come_back_as_from_the_network_written_out(tmp_path, latent):
    pytest.importorskip("diffusers")
    network, encoder = tiny.write(tmp_path, "tiny", latent)
    found = autoencoder.load(autoencoder.sources([str(encoder)])[0])
    assert found.name == "tiny"
    given = pixels()
    with torch.inference_mode():
        expected = network(torch.from_numpy(given).permute(0, 3, 1, 2) / 255).permute(0, 2, 3, 1).mul(255).round().clamp(0, 255)
    assert expected.std() > 1
    again = found(given)
    assert again.dtype == np.uint8
    assert np.abs(again.astype(int) - expected.numpy()).max() <= 1


def test_diffusers_own_format_is_read_by_its_class(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    small = {"block_out_channels": (8, 8), "norm_num_groups": 4, "sample_size": 16}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    net = diffusers.AutoencoderKL(**small, **blocks).eval()
    net.save_pretrained(tmp_path / "model" / "vae")
    (found,) = autoencoder.sources([str(tmp_path / "model" / "vae")])
    assert found.name == "model"
    given = pixels()
    x = torch.from_numpy(given).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = net.decode(net.encode(x).latent_dist.mean).sample.permute(0, 2, 3, 1)
    expected = ((expected.numpy() + 1) * 127.5).round().clip(0, 255)
    again = autoencoder.load(found)(given)
    assert np.abs(again.astype(int) - expected).max() <= 1
    assert (autoencoder.load(found)(given) == again).all()  # the mode of the distribution, nothing drawn


def test_a_folder_of_tiny_ones_is_all_of_them_and_a_name_can_be_given(tmp_path):
    for seed, name in enumerate(("a", "b")):
        tiny.write(tmp_path, name, seed=seed)
    assert [each.name for each in autoencoder.sources([str(tmp_path)])] == ["a", "b"]
    named = autoencoder.sources([f"one={tmp_path}/a_encoder.safetensors", f"two={tmp_path}/b_decoder.safetensors"])
    assert [each.name for each in named] == ["one", "two"]
    assert named[0].digest() != named[1].digest()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["{0}/nothing"], "no autoencoder there"),
        (["{0}/a_encoder.safetensors", "{0}"], "two autoencoders are called 'a'"),
        (["one={0}"], "one name for 2 autoencoders"),
        (["train={0}/a_encoder.safetensors"], "'train' cannot be an autoencoder's name"),
        (["../x={0}/a_encoder.safetensors"], "no autoencoder there"),
        (["{0}/lone_encoder.safetensors"], "lone_decoder.safetensors: is missing"),
        (["{0}/folder"], "expected diffusion_pytorch_model.safetensors beside config.json"),
        ([], "no autoencoder is given"),
    ],
)
def test_what_is_no_autoencoder_is_said(tmp_path, given, words):
    for name in ("a", "b"):
        tiny.write(tmp_path, name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "lone").mkdir()
    if any("lone" in each for each in given):
        tiny.write(tmp_path, "lone")
        (tmp_path / "lone_decoder.safetensors").unlink()
    with pytest.raises(ModelError, match=words):
        autoencoder.sources([each.format(tmp_path) for each in given])


def test_files_that_do_not_fit_are_refused_with_the_reason(tmp_path):
    pytest.importorskip("diffusers")
    tiny.write(tmp_path, "a", 4)
    tiny.write(tmp_path, "b", 16)
    (tmp_path / "b_decoder.safetensors").replace(tmp_path / "a_decoder.safetensors")
    with pytest.raises(ModelError, match=r"a_encoder.safetensors and its decoder: .*size mismatch"):
        autoencoder.load(autoencoder.sources([str(tmp_path / "a_encoder.safetensors")])[0])
    (tmp_path / "a_encoder.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"a_encoder.safetensors: cannot be read"):
        autoencoder.load(autoencoder.sources([str(tmp_path / "a_encoder.safetensors")])[0])
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"describes a UNet2DConditionModel, expected AutoencoderKL or AutoencoderTiny"):
        autoencoder.load(autoencoder.sources([str(tmp_path / "config.json")])[0])


def test_without_diffusers_it_says_what_to_install(tmp_path, monkeypatch):
    tiny.write(tmp_path, "a")
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.split(".")[0] == "diffusers":
            raise ModuleNotFoundError("blocked", name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r"need diffusers, which is not installed: pip install 'edgedet\[reconstruct\]'"):
        autoencoder.load(autoencoder.sources([str(tmp_path)])[0])
