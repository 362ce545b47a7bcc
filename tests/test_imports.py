"""Imports go one way, and what a device needs imports without torch. Both are read from the package, not promised."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgedet

PACKAGE = Path(edgedet.__file__).parent

LAYERS = (
    ("errors", "recipe", "artifact", "preprocess", "patches", "metrics", "ort", "target", "work"),
    ("data",),
    ("models", "quantize", "runtime"),
    ("evaluate", "bench"),
    ("training", "export"),
    ("compress",),
    ("search", "explain", "report", "serve"),
    ("cli",),
    ("__main__",),
)
NEEDS_TORCH = (
    "edgedet.models",
    "edgedet.training",
    "edgedet.compress",
    "edgedet.search",
    "edgedet.explain.checkpoint",
    "edgedet.explain.gradcam",
    "edgedet.explain.rollout",
    "edgedet.explain.tokens",
    "edgedet.export.anchor",
    "edgedet.export.onnx",
    "edgedet.export.patchwise",
    "edgedet.runtime.torch",
)
# A runtime for checkpoints rebuilds their network; it does so only once it is asked to load one.
ALLOWED_ASIDE = {("edgedet.runtime.torch", "edgedet.models")}

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_shipped" not in path.parts
}


def layer_of(module: str) -> int:
    part = module.split(".")[1]
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def imported(path: Path) -> set[str]:
    """The modules of edgedet that a file imports, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            base = node.module or ""
            children = {f"{base}.{alias.name}" for alias in node.names}
            found |= {child if child in MODULES else base for child in children}
    return {name for name in found if name.startswith("edgedet.")}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "edgedet"])
def test_a_module_imports_only_from_the_layers_above(module):
    assert any(module.split(".")[1] in parts for parts in LAYERS), f"{module} is in no layer: give it one"
    wrong = []
    for other in imported(MODULES[module]):
        same_part = other.split(".")[1] == module.split(".")[1]
        within_first = layer_of(other) == layer_of(module) == 0
        allowed = same_part or within_first or layer_of(other) < layer_of(module)
        if not allowed and (module, other) not in ALLOWED_ASIDE:
            wrong.append(other)
    assert not wrong, f"{module} imports from beside or below itself: {', '.join(wrong)}"


BLOCKED = """
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "torch_pruning", "onnxscript", "safetensors"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        failed.append(f"{name}: {error}")
print("; ".join(failed))
"""


def test_everything_but_the_training_half_imports_without_torch():
    free = [name for name in MODULES if not name.startswith(NEEDS_TORCH)]
    assert len(free) > 10
    # The table of checkpoints' runtime is looked at without torch as well: only loading needs it.
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *free, "edgedet.runtime.torch"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_every_public_name_resolves_without_torch():
    code = BLOCKED + "\nimport edgedet\nassert all(getattr(edgedet, name) for name in edgedet.__all__)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_checkpoint_without_torch_says_what_to_install(make_onnx_artifact):
    artifact = make_onnx_artifact(kind="checkpoint")
    code = BLOCKED + (
        "\nfrom edgedet import Artifact, EdgedetError\nfrom edgedet.runtime.torch import load"
        "\nfrom edgedet.runtime.base import Options"
        f"\ntry:\n    load(Artifact.load({str(artifact.path)!r}), Options(1))"
        "\nexcept EdgedetError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs torch, which is not installed: pip install 'edgedet[train]'" in done.stdout
