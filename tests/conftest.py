"""Fixtures that several folders share."""

import functools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_onnx
from command import Demo, make_demo

from edgedet.artifact import Artifact

MakeArtifact = Callable[..., Artifact]

# A shell starts what it puts in the background deaf to Ctrl-C, and so its children: the tests that press it need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_onnx_artifact(tmp_path: Path) -> MakeArtifact:
    """A real, tiny ONNX artifact: the logit is a weighted sum of the image's mean red, green and blue, plus a bias."""
    return functools.partial(tiny_onnx.make, tmp_path)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Artifacts of every stage, made once by the commands themselves."""
    pytest.importorskip("torch")
    return make_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of all that edgedet's core needs under any Python, from the package index."""
    from edgedet.export.wheel import requirements

    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", str(folder)]
    needs = [line.partition(";")[0] for line in requirements()]
    subprocess.run([*command, *needs], check=True, capture_output=True, timeout=1200)
    return folder
