"""The installer of a bundle, run here by the system's own shell on ONNX Runtime, in a fresh environment without torch."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import TARGET, exported, labelled

from edgedet import artifact as artifacts
from edgedet import recipe
from edgedet.artifact import Artifact, Golden
from edgedet.export import pack
from edgedet.target import resolve

SCRIPT = recipe.folder_of("export") / "jetson" / "install.sh"


@pytest.fixture
def artifact(make_onnx_artifact, tmp_path) -> Artifact:
    return exported(make_onnx_artifact(weights=(0.1, -0.05, -0.05)), tmp_path / "artifact")


@pytest.fixture
def packed(artifact, tmp_path) -> Path:
    return pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz", sample=labelled(tmp_path / "data")).path


def command(archive: Path, folder: Path, *options: str) -> list[str]:
    given = ["--dir", str(folder), "--runtime", "onnxruntime", "--python", sys.executable]
    return ["sh", str(SCRIPT), str(archive), *given, *options]


def install(archive: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(archive, folder, *options), capture_output=True, text=True, timeout=1200, check=False)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.slow
def test_it_installs_tests_and_runs_without_torch(packed, artifact, tmp_path):
    """Killed in the middle, then run from the package index, then run again, then followed by a bundle that fails."""
    there = tmp_path / "there"
    kill_while_installing(packed, there)
    assert not [name for name in names(there) if not name.startswith(".installing-")], "nothing looks installed"

    done = install(packed, there, "--serve", f"127.0.0.1:{free_port()}", "--", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    (installed,) = names(there) - {"current", "edgedet.service"}
    assert (there / "current").readlink() == Path(installed)
    result = json.loads((there / "current/self-test.json").read_text())
    assert (result["failed"], result["runtime"], result["artifact"]) == (None, "onnxruntime", artifact.digest)
    python = there / "current/venv/bin/python"
    listed = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "No module named 'torch'" in listed.stderr
    image = next((tmp_path / "data").glob("*.png"))
    model = there / "current/edgedet-bundle/artifact"
    scored = subprocess.run([there / "current/edgedet", "detect", model, image], capture_output=True, text=True, check=False)
    assert scored.returncode == 0, scored.stderr
    assert scored.stdout.startswith(("fake", "real"))

    serves_by_its_unit(there, image)
    again = install(packed, there, "--serve", "127.0.0.1:8000", "--", "--seconds", "0.1")
    assert again.returncode == 0, again.stderr
    assert "is there already" in again.stderr

    worse = pack.write(disagreeing(artifact, tmp_path / "worse"), resolve(TARGET), tmp_path / "worse.tar.gz").path
    refused = install(worse, there, "--", "--seconds", "0.1")  # without what the unit that is there takes
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith("add --serve 127.0.0.1:8000, or remove that file first")
    failed = install(worse, there, "--serve", "127.0.0.1:8000", "--", "--seconds", "0.1")
    assert failed.returncode == 1
    assert "max_relative is" in failed.stderr.splitlines()[-1]
    assert (there / "current").readlink() == Path(installed), "what failed its test is not used"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def serves_by_its_unit(there: Path, image: Path) -> None:
    """What systemd would start answers, and ends when systemd would end it."""
    unit = (there / "edgedet.service").read_text()
    assert "@" not in unit.partition("[Unit]")[2], "every blank is filled in"
    if shutil.which("systemd-analyze"):
        verify = ["systemd-analyze", "verify", there / "edgedet.service"]
        checked = subprocess.run(verify, capture_output=True, text=True, check=False)
        assert "edgedet.service" not in checked.stderr, checked.stderr
    (line,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    url = f"http://127.0.0.1:{line.rsplit(maxsplit=1)[1]}"
    with subprocess.Popen(shlex.split(line), stderr=subprocess.DEVNULL) as process:
        try:
            asked = answer(f"{url}/v1/detect", image.read_bytes(), process)
            assert asked["verdict"] in ("fake", "real")
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def answer(url: str, body: bytes, process: subprocess.Popen[bytes]) -> dict[str, object]:
    """The service's answer, once it is up."""
    for _ in range(600):
        assert process.poll() is None, "the service has ended"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "image/png"}), timeout=10) as reply:
                return dict(json.load(reply))
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError("the service does not answer")


def kill_while_installing(archive: Path, folder: Path) -> None:
    with subprocess.Popen(command(archive, folder), stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while not any((path / "venv").exists() for path in folder.glob(".installing-*")):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)


def disagreeing(artifact: Artifact, out: Path) -> Artifact:
    golden = artifact.golden
    with artifacts.writing(out) as draft:
        (draft.path / "model.onnx").write_bytes(artifact.graph.read_bytes())
        moved = Golden(golden.images, golden.pixels, golden.parent_logits + np.float32(1), golden.logits)
        moved.save(draft.path / "golden.npz")
        draft.manifest = artifact.manifest
    return Artifact.load(out)


def rewritten(path: Path, name: str, content: bytes) -> Path:
    """The same archive with one more file in it, which takes the place of an earlier one of that name."""
    out = path.with_name("changed.tar.gz")
    with tarfile.open(path) as old, tarfile.open(out, "w:gz") as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        new.addfile(entry, io.BytesIO(content))
    return out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("edgedet-bundle/artifact/model.onnx", "refused: artifact/model.onnx is not the file that the bundle was made with"),
        ("edgedet-bundle/wheels/other.whl", "refused: wheels/other.whl is not in the list"),
        ("edgedet-bundle/bundle.json", "no bundle.json can be read there"),
    ],
)
def test_a_bundle_that_was_tampered_with_leaves_nothing(packed, tmp_path, name, words):
    done = install(rewritten(packed, name, b"other"), tmp_path / "there")
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
    assert names(tmp_path / "there") == set()


def test_a_copy_that_was_cut_off_leaves_nothing(packed, tmp_path):
    digest = pack.inspect(packed).digest
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(packed.read_bytes()[:-1000])
    done = install(cut, tmp_path / "there", "--sha256", digest)
    assert f"expected {digest}: copy it again" in done.stderr
    unhashed = install(cut, tmp_path / "there")
    assert "cannot be unpacked: copy it again" in unhashed.stderr
    assert (done.returncode, unhashed.returncode, names(tmp_path / "there")) == (1, 1, set())


def test_half_of_the_script_does_nothing(packed, tmp_path):
    """It may be sent over a connection that is cut."""
    whole = SCRIPT.read_bytes()
    for length in range(0, len(whole) - 25, len(whole) // 20):
        part = subprocess.run(
            ["sh", "-s", "--", str(packed), "--dir", str(tmp_path / "there"), "--python", sys.executable],
            input=whole[:length],
            capture_output=True,
            check=False,
        )
        assert b"install.sh:" not in part.stderr
    assert names(tmp_path / "there") == set()


OLD = "#!/bin/sh\ncase $1 in --version) echo Python 3.8.10;; esac\ncase $2 in *version_info*) exit 1;; esac\n"
BARE = "#!/bin/sh\ncase $2 in *ensurepip*) exit 1;; esac\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--python", "no-python"], "no no-python here: install it"),
        (["--python", "{tmp}/old"], "Python 3.8.10 is too old: edgedet needs 3.10, which JetPack 6 brings"),
        (["--python", "{tmp}/bare"], "has no venv: install it (apt-get install python3-venv)"),
        (["--runtime", "tensorrt"], "no TensorRT for"),
        (["--runtime", "openvino"], "no runtime is called openvino"),
        (["--dirs", "x"], "unknown option --dirs"),
        (["--sha256"], "--sha256 needs a value"),
    ],
)
def test_what_a_device_lacks_is_one_line(packed, tmp_path, options, words):
    for name, text in (("old", OLD), ("bare", BARE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = install(packed, tmp_path / "there", *(each.format(tmp=tmp_path) for each in options))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words in line
    assert names(tmp_path / "there") == set()


def test_a_device_can_be_asked_before_anything_is_copied(tmp_path):
    there = tmp_path / "there"
    options = ["--check", "--runtime", "onnxruntime", "--python", sys.executable, "--dir", str(there)]
    done = subprocess.run(["sh", str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, there.exists()) == (0, "", False)
