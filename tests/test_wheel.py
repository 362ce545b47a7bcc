"""The wheel holds the package and its data, nothing else, and works without the checkout."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {"train": "*.toml", "export": "*.toml", "benchmarks/reference": "*.*"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("hatchling") is None, reason="building the wheel needs hatchling: pip install 'edgedet[dev]'"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(out)], check=True, capture_output=True, timeout=300)
    (built,) = out.glob("edgedet-*.whl")
    return built


def test_it_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgedet"}
    assert not [name for name in names if "/test_" in name or "/tests/" in name or "__pycache__" in name]
    assert "edgedet/py.typed" in names
    in_package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "edgedet").rglob("*.py")}
    assert in_package <= set(names)


@pytest.mark.parametrize("folder", SHIPPED)
def test_it_ships_every_recipe_target_and_published_figure(wheel, folder):
    prefix = f"edgedet/_shipped/{folder}/"
    shipped = {name.removeprefix(prefix) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(prefix)}
    ours = {path.name for path in (ROOT / folder).glob(SHIPPED[folder])}
    assert ours
    assert ours <= shipped


def test_its_core_needs_no_torch(wheel):
    file = zipfile.ZipFile(wheel)
    (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
    needs = email.message_from_bytes(file.read(name)).get_all("Requires-Dist") or []
    core = [line for line in needs if "extra ==" not in line]
    assert core
    assert not [line for line in core if line.startswith(("torch", "onnx>", "timm"))]
    assert not [line for line in needs if "@" in line or "==" in line.partition(";")[0]], "ranges, not pins"


def test_its_recipes_and_targets_are_found_without_a_checkout(wheel, tmp_path):
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    show = "from edgedet import recipe; print(recipe.__file__); print(*recipe.names('train')); print(*recipe.names('export'))"
    said = _python(["-c", show], tmp_path, environment).splitlines()
    assert Path(said[0]).is_relative_to(installed)
    assert said[1].split() == sorted(path.stem for path in (ROOT / "train").glob("*.toml"))
    assert said[2].split() == sorted(path.stem for path in (ROOT / "export").glob("*.toml"))
    listed = _python(["-m", "edgedet", "recipes"], tmp_path, environment)
    assert "demo-teacher" in listed


def _python(arguments: list[str], cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
