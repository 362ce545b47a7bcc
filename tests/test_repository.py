"""What no tracked file may hold, and what every module has: a mirrored test."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgedet"

# Written in pieces, so that this file does not hold them.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:home|Users|root|mnt|workspace|opt)/\w",
    "a package registry": "pypi" + r"\.org|files\.python" + "hosted|download\\.py" + "torch|anaconda" + r"\.org|:\d+/simple\b",
    "a loose end": r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b|NotImplemented" + "Error",
    "a pickle": r"\bimport pick" + "le|weights_only=Fal" + "se",
}
# Where the pattern is meant: a device's own paths and other tools' words.
EXPECTED = {
    ("edgedet/data/archive.py", "a loose end"): "zipfile raises it for an unknown compression",
}

# Modules whose test is elsewhere, because only together with others do they do anything.
COVERED = {
    "__init__": "tests/test_imports.py",
    "__main__": "tests/cli/test_main.py",
    "errors": "tests/cli/test_main.py",
    "artifact/draft": "tests/artifact/test_folder.py",
    "bench/entry": "tests/bench/test_stage.py",
    "bench/rows": "tests/bench/test_stage.py",
    "cli/__init__": "tests/cli/test_main.py",
    "cli/common": "tests/cli/test_make.py",
    "compress/fake": "tests/compress/test_graph_module.py",
    "compress/graph_reader": "tests/compress/test_graph_module.py",
    "data/distort": "tests/evaluate/test_degrade.py",
    "data/facts": "tests/data/test_scan.py",
    "data/labels": "tests/data/test_scan.py",
    "data/layouts": "tests/data/test_scan.py",
    "data/shortcuts": "tests/data/test_audit.py",
    "data/store": "tests/data/test_cache.py",
    "evaluate/assess": "tests/cli/test_make.py",
    "evaluate/tables": "tests/cli/test_measure.py",
    "explain/checkpoint": "tests/explain/test_run.py",
    "explain/graph": "tests/explain/test_run.py",
    "explain/heat": "tests/explain/test_run.py",
    "explain/tokens": "tests/explain/test_rollout.py",
    "export/compile_child": "tests/export/test_compile.py",
    "export/deploy": "tests/cli/test_deploy.py",
    "export/graphs": "tests/export/test_patchwise.py",
    "export/stage": "tests/export/test_export_stage.py",
    "export/tensorrt_child": "tests/export/test_tensorrt.py",
    "metrics/curves": "tests/test_metrics.py",
    "metrics/figures": "tests/test_metrics.py",
    "metrics/intervals": "tests/test_metrics.py",
    "metrics/samples": "tests/test_metrics.py",
    "metrics/single": "tests/test_metrics.py",
    "models/__init__": "tests/models/test_detectors.py",
    "models/backbones": "tests/models/test_detectors.py",
    "models/cifake": "tests/models/test_detectors.py",
    "models/edgenet": "tests/models/test_detectors.py",
    "models/mobilenetv4": "tests/models/test_detectors.py",
    "models/pixels": "tests/models/test_detectors.py",
    "models/resnet": "tests/models/test_detectors.py",
    "models/table": "tests/models/test_detectors.py",
    "models/xception": "tests/models/test_detectors.py",
    "quantize/gates": "tests/quantize/test_placement.py",
    "quantize/graph": "tests/quantize/test_placement.py",
    "quantize/model": "tests/export/test_export_stage.py",
    "quantize/ranges/__init__": "tests/quantize/ranges/test_find.py",
    "report/content": "tests/report/test_build.py",
    "report/svg": "tests/report/test_plots.py",
    "runtime/base": "tests/runtime/test_runtimes.py",
    "runtime/connection": "tests/runtime/test_cluster.py",
    "runtime/null": "tests/runtime/test_runtimes.py",
    "runtime/onnxruntime": "tests/runtime/test_runtimes.py",
    "search/making": "tests/search/test_run.py",
    "serve/meters": "tests/serve/test_app.py",
    "training/config": "tests/training/test_loop.py",
    "training/distributed": "tests/training/test_loop.py",
    "training/signals": "tests/training/test_loop.py",
    "training/validation": "tests/training/test_loop.py",
    "work": "tests/models/test_work.py",
}


def tracked() -> list[Path]:
    """The text files under version control."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:1024]]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(what):
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if (path.relative_to(ROOT).as_posix(), what) not in EXPECTED
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def modules() -> list[str]:
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in sorted(PACKAGE.rglob("*.py")))
    return [path.as_posix() for path in paths if not path.as_posix().startswith("_shipped")]


@pytest.mark.parametrize("module", modules())
def test_every_module_has_a_mirrored_test_or_one_that_is_named(module):
    folder, _, name = module.rpartition("/")
    if name == "__init__" and _is_only_words(PACKAGE / f"{module}.py"):
        return
    mirrored = ROOT / "tests" / folder / f"test_{name}.py"
    test = ROOT / COVERED[module] if module in COVERED else mirrored
    assert test.is_file(), f"edgedet/{module}.py: write {mirrored.relative_to(ROOT)}, or name its test in COVERED"


def test_no_module_has_two_places_for_its_test():
    both = [m for m in COVERED if (ROOT / "tests" / m).with_name(f"test_{m.rpartition('/')[2]}.py").is_file()]
    assert not both, f"{both}: take them out of COVERED"


def _is_only_words(path: Path) -> bool:
    """A package file with a docstring, imports and what it exports, and no code of its own."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    words = (ast.Expr, ast.Import, ast.ImportFrom)
    return all(isinstance(node, words) or ast.unparse(node).startswith("__all__ = ") for node in body)


def test_every_module_opens_with_what_it_is_for():
    silent = [module for module in modules() if not (PACKAGE / f"{module}.py").read_text(encoding="utf-8").startswith('"""')]
    assert not silent
