"""The wheel that edgedet writes of itself, beside the one that the build tool makes of the checkout."""

from __future__ import annotations

import email
import io
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import edgedet
from edgedet.errors import ExportError
from edgedet.export import wheel

ROOT = Path(__file__).resolve().parent.parent.parent


def contents(packed: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_same_code_gives_the_same_bytes():
    assert wheel.build() == wheel.build()


def test_it_needs_the_core_only():
    needs = wheel.requirements()
    assert {line.split(">")[0] for line in needs} >= {"numpy", "pillow", "msgspec", "typer", "rich", "onnxruntime"}
    assert not [line for line in needs if line.startswith(("torch", "timm", "onnx>"))]


def test_an_installation_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(edgedet, "__version__", "9.9.9")
    with pytest.raises(ExportError, match=r"is installed, but this is 9\.9\.9: install it again"):
        wheel.build()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("hatchling") is None, reason="building the wheel needs hatchling: pip install 'edgedet[dev]'")
def test_it_holds_what_the_build_tools_wheel_holds(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], check=True, capture_output=True, timeout=300)
    (built,) = tmp_path.glob("*.whl")
    ours, theirs = contents(wheel.build()), contents(built.read_bytes())
    assert built.name == wheel.name()
    assert set(ours) == set(theirs)
    generated = {name for name in ours if name.endswith(("/RECORD", "/WHEEL", "/METADATA"))}
    assert {name for name in ours if ours[name] != theirs[name]} <= generated
    (described,) = (name for name in generated if name.endswith("/METADATA"))
    assert core(ours[described]) == core(theirs[described])


def core(metadata: bytes) -> dict[str, list[str]]:
    """What decides whether it installs on a device. Extras may have changed since the checkout was installed."""
    found = email.message_from_bytes(metadata)
    fields = ("Name", "Version", "Requires-Python", "Requires-Dist", "License-File")
    return {field: sorted(line for line in found.get_all(field, []) if "extra ==" not in line) for field in fields}


@pytest.mark.slow
def test_an_installed_wheel_writes_itself_again(tmp_path):
    """Away from the checkout, what is installed is all there is."""
    (tmp_path / wheel.name()).write_bytes(wheel.build())
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*command, str(tmp_path / wheel.name())], check=True, capture_output=True, timeout=300)
    code = "import sys; from edgedet.export import wheel; sys.stdout.buffer.write(wheel.build())"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout == wheel.build()
