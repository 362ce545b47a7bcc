"""``edgedet deploy``, over a real sshd on a loopback port with keys that are thrown away.

The other side is this machine, so ONNX Runtime stands where TensorRT would; the result says so.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import assert_one_line
from tiny_bundle import TARGET, exported, labelled

from edgedet.errors import DeployError
from edgedet.export import deploy, pack
from edgedet.export.bundle import Packed
from edgedet.target import resolve

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
WHO = f"{getpass.getuser()}@127.0.0.1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="needs sshd: apt-get install openssh-server"),
]

# Stands between ssh and sshd, and cuts the connection after so many bytes that way.
CUTTER = """
import socket, sys, threading
port, left = int(sys.argv[1]), int(sys.argv[2])
there = socket.create_connection(("127.0.0.1", port))
def back():
    while data := there.recv(1 << 16):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
threading.Thread(target=back, daemon=True).start()
while left > 0 and (data := sys.stdin.buffer.raw.read(1 << 14)):
    there.sendall(data)
    left -= len(data)
there.shutdown(socket.SHUT_RDWR)
"""


@dataclass(frozen=True)
class Server:
    """An sshd that runs: its port, the key it takes, one that it does not take, and configurations for ssh."""

    port: int
    key: Path
    other_key: Path
    config: Path
    cutting: Path


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("sshd"), free_port()
    host, ours, other = (key(folder / name) for name in ("host", "ours", "other"))
    shutil.copy(f"{ours}.pub", folder / "authorized")
    known = f"[127.0.0.1]:{port} {Path(f'{host}.pub').read_text()}"
    (folder / "known").write_text(known)
    (folder / "cutter.py").write_text(CUTTER)
    (folder / "config").write_text(f"UserKnownHostsFile {folder}/known\nGlobalKnownHostsFile none\n")
    # Far more than ssh sends ahead (2 MB), so that the other side has begun to write.
    cut = f"ProxyCommand {sys.executable} {folder}/cutter.py %p 20000000\n"
    (folder / "cutting").write_text((folder / "config").read_text() + cut)
    (folder / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a privileged sshd puts its helpers; the service makes it elsewhere
    assert SSHD is not None
    with subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd")], stderr=subprocess.PIPE, text=True) as process:
        wait_for(port, process)
        yield Server(port, ours, other, folder / "config", folder / "cutting")
        process.terminate()


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            pytest.skip(f"sshd does not run here: {process.stderr.read() if process.stderr else ''}")
        time.sleep(0.05)
    pytest.fail("sshd did not come up")


@pytest.fixture
def packed(make_onnx_artifact, wheels, tmp_path) -> Path:
    """A bundle that brings all its wheels, so that it is tens of megabytes."""
    artifact = exported(make_onnx_artifact(weights=(0.1, -0.05, -0.05)), tmp_path / "artifact")
    return pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz", sample=labelled(tmp_path / "data"), wheels=wheels).path


@pytest.fixture
def arguments(server, tmp_path):
    """What every deployment here has in common; the folder has a space in its name."""

    def make(**changed: object) -> list[object]:
        given = {
            "--port": server.port,
            "--identity": server.key,
            "--ssh-config": server.config,
            "--dir": tmp_path / "the device",
            "--python": sys.executable,
            "--seconds": 0.1,
            **{f"--{name.replace('_', '-')}": value for name, value in changed.items()},
        }
        return [item for pair in given.items() if pair[1] is not None for item in pair]

    return make


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_cut_copy_leaves_nothing_and_the_next_deployment_works(edgedet, packed, server, arguments, tmp_path):
    there = tmp_path / "the device"
    cut = edgedet("deploy", packed, WHO, *arguments(runtime="onnxruntime", ssh_config=server.cutting))
    assert cut.code == 1
    assert "the connection was lost" in cut.err.splitlines()[-1]
    assert there.is_dir(), "the copy had begun"
    assert names(there) <= {".incoming.tar.gz"}

    home = tmp_path / "home.json"
    done = edgedet("deploy", packed, WHO, *arguments(runtime="onnxruntime", json=home))
    assert done.code == 0, done.err
    assert "onnxruntime" in done.out
    assert "standing in for tensorrt" in " ".join(done.out.split())
    found = json.loads(home.read_text())
    assert (found["failed"], found["runtime"], found["intended"]) == (None, "onnxruntime", "tensorrt")
    assert found == json.loads((there / "current" / "self-test.json").read_text())
    assert found["parity"]["batch_sizes"] == [1, 2, 7, 16]
    assert found["bench"]["latency"]["p50_ms"] > 0
    assert names(there) == {"current", found_name(there)}
    torch = subprocess.run([there / "current/venv/bin/python", "-c", "import torch"], capture_output=True, check=False)
    assert torch.returncode == 1

    # The second time it is there already. A self-test that cannot begin has no result to bring home, but a reason.
    again = edgedet("deploy", packed, WHO, *arguments(runtime="onnxruntime", power_mode="MAXN"))
    assert again.code == 1
    assert "only a Jetson has them" in again.err.splitlines()[-1]
    assert names(there) == {"current", found_name(there)}


def found_name(there: Path) -> str:
    return (there / "current").readlink().name


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"identity": "other"}, "it takes no key of ours: give one with --identity"),
        ({"identity": "nowhere"}, "no identity file is there"),
        ({"port": "closed"}, "it cannot be reached: see that it is on"),
        ({"ssh_config": "unknown"}, "its host key is not the one that is known, or none is"),
        ({"python": "python-that-is-not"}, "no python-that-is-not here: install it"),
        ({"runtime": None}, "no TensorRT for"),
    ],
)
def test_what_stands_in_the_way_is_one_sentence(edgedet, make_onnx_artifact, server, arguments, tmp_path, changed, words):
    (tmp_path / "unknown").write_text(f"UserKnownHostsFile {tmp_path}/none\nGlobalKnownHostsFile none\n")
    meant = {
        "other": server.other_key,
        "nowhere": tmp_path / "nowhere",
        "closed": free_port(),
        "unknown": tmp_path / "unknown",
    }
    given = {"runtime": "onnxruntime", **{name: meant.get(value, value) for name, value in changed.items()}}
    artifact = exported(make_onnx_artifact(), tmp_path / "artifact")
    bundle = pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz").path
    done = edgedet("deploy", bundle, WHO, *arguments(**given))
    assert done.code == 1
    last = done.err.splitlines(keepends=True)[-1]
    assert_one_line(last, words)
    assert names(tmp_path / "the device") == set()


def test_a_bundle_that_was_tampered_with_is_not_even_copied(edgedet, make_onnx_artifact, arguments, tmp_path):
    artifact = exported(make_onnx_artifact(), tmp_path / "artifact")
    bundle = pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz").path
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    done = edgedet("deploy", bundle, WHO, *arguments(runtime="onnxruntime"))
    assert done.code == 1
    assert_one_line(done.err, str(bundle))
    assert names(tmp_path / "the device") == set()


def test_the_result_of_an_earlier_deployment_is_not_taken_for_this_ones(monkeypatch, tmp_path):
    """The installer of the second ends before it tests anything; here a shell stands for the connection."""
    home = tmp_path / "home"
    home.mkdir()

    def run(host, remote, stdin=b""):
        source = stdin if isinstance(stdin, bytes) else stdin.read()
        done = subprocess.run(["sh", "-c", remote], input=source, capture_output=True, cwd=home, check=False)
        if done.returncode:
            raise deploy._Refused(done.stderr.decode().splitlines()[-1])
        return done.stdout

    monkeypatch.setattr(deploy, "_run", run)
    (tmp_path / "b.tar.gz").write_bytes(b"bundle")
    bundle = SimpleNamespace(target=resolve(TARGET))
    installer = b'case "$*" in *--check*) exit 0 ;; esac; echo "no room" >&2; exit 1'
    packed = Packed(tmp_path / "b.tar.gz", bundle, "0123456789abcdef", installer)
    old = home / "edgedet" / f"bundle-0123456789ab-{bundle.target.runtime}" / "self-test.json"
    old.parent.mkdir(parents=True)
    old.write_text("of yesterday")
    with pytest.raises(DeployError, match="no room"):
        deploy.deploy(packed, deploy.Host("device"))
    assert not old.exists()
