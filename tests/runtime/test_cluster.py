"""A detector on a cluster: the rows of one machine, whatever happens on the others."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest
from command import assert_one_line, environment, press_ctrl_c, run
from PIL import Image

from edgedet.artifact import Calibration
from edgedet.errors import ArtifactError, DataError, ImageError, RuntimeUnavailable
from edgedet.runtime import base, cluster, connection
from edgedet.runtime.detector import Detector

BATCH = 4
# Ray writes a token into the home folder otherwise, and asks for 30 % of the memory.
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "80000000"}


def needs_ray() -> None:
    """Skip without it; not imported here, which would take seconds."""
    if base.missing("ray") or base.missing("pyarrow"):
        pytest.skip("ray[data] is not installed")


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Forty images of noise in a folder; one is none, and one has a name that is not UTF-8."""
    folder, random = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{number:02}.png" for number in range(40)]
    paths[30] = folder / os.fsdecode(b"30\xff.png")
    for path in paths:
        Image.fromarray(random.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(path)
    paths[17].write_bytes(b"no image")
    return paths


def job_for(made, **changed) -> cluster.Job:
    settings = {"runtime": "onnxruntime", "threads": 1, "batch_size": BATCH, "operating_point": None, "folder": None}
    return cluster.Job(**{"artifact": str(made.path), "digest": made.digest, **settings, **changed})


def scored(job: cluster.Job, paths: list[Path]) -> list[dict]:
    """What one process of a cluster gives back for a share, made here."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, which Ray Data needs, is not installed")
    share = pyarrow.table({"path": [str(path).encode("utf-8", "surrogatepass") for path in paths]})
    return cluster.Scorer(job)(share).to_pylist()


def test_a_share_is_scored_as_a_crew_scores_it_and_travels_to_the_bit(make_onnx_artifact, files):
    artifact = make_onnx_artifact()
    with Detector.load(artifact, workers=2, batch_size=BATCH) as crew:
        expected = crew.predict(files, on_error="return")
    rows = (row for row in scored(job_for(artifact), files))
    assert list(cluster._checked(files, rows)) == expected
    assert [each.error is None for each in expected].count(False) == 1


def test_files_are_shared_out_in_whole_batches_and_in_order():
    files = [Path(str(number)) for number in range(1001)]
    for batch, slots in ((4, 2), (32, 3), (1, 64), (500, 8)):
        shares = cluster.cut(files, batch, slots)
        assert [path for share in shares for path in share] == files
        assert all(len(share) % batch == 0 for share in shares[:-1])
        assert len(shares) >= min(4 * slots, len(files) // batch)
    assert max(map(len, cluster.cut(files * 100, 4, 2))) == 64  # of many files not one share a process


def test_processes_fill_the_machines_and_not_more():
    machines = [{"CPU": 4.0, "memory": 1e9}, {"CPU": 9.0, "GPU": 2.0}, {}]
    assert cluster.processes(machines, threads=1) == 13
    assert cluster.processes(machines, threads=4) == 3
    assert cluster.processes(machines, threads=1, gpus=1) == 2
    with pytest.raises(RuntimeUnavailable, match="no machine of the cluster has 10 cores, the largest has 9: lower --threads"):
        cluster.processes(machines, threads=10)


def test_what_is_wrong_on_a_machine_is_raised_here_in_its_own_kind(make_onnx_artifact, files, tmp_path):
    artifact = make_onnx_artifact()
    host = socket.gethostname()
    for changed, error, words in (
        ({"artifact": str(tmp_path / "nowhere")}, ArtifactError, "nowhere: not an artifact"),
        ({"digest": "other"}, RuntimeUnavailable, "is another artifact on this machine"),
        ({"folder": str(tmp_path / "gone")}, RuntimeUnavailable, "gone: every machine needs this folder: No such file"),
        ({"runtime": "torch"}, RuntimeUnavailable, "the torch runtime runs checkpoint artifacts"),
    ):
        rows = (row for row in scored(job_for(artifact, **changed), files[:2]))
        with pytest.raises(error, match=f"^{host}: .*{words}"):
            list(cluster._checked(files[:2], rows))


def test_an_image_that_only_another_machine_lacks_is_no_row(make_onnx_artifact, files, tmp_path):
    artifact, late = make_onnx_artifact(), tmp_path / "late.png"
    rows = scored(job_for(artifact), [late])
    (nowhere,) = cluster._checked([late], (row for row in rows))
    assert "late.png" in nowhere.error
    late.write_bytes(files[0].read_bytes())
    with pytest.raises(DataError, match=r"late\.png: is here but not on .*: every machine needs it at the same path") as found:
        list(cluster._checked([late], (row for row in rows)))
    assert not isinstance(found.value, ImageError)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_address_without_a_cluster_is_one_line(make_onnx_artifact, files, tmp_path):
    needs_ray()
    address = f"127.0.0.1:{free_port()}"
    request = ["detect", make_onnx_artifact().path, files[0], "--engine", "ray", "--address", address]
    done = run(*request, cache=tmp_path / "cache")
    assert done.returncode == 1
    assert_one_line(done.stderr, f"{address}: no Ray cluster answers there: Connection refused")
    assert not done.stdout


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "nonsense", "host:port", ":6379"])
def test_what_is_no_address_is_refused_before_ray_is_imported(address):
    needs_ray()
    words = "must be auto, local or HOST:PORT of a cluster's head, got "
    with pytest.raises(RuntimeUnavailable, match=words + re.escape(repr(address))), connection.connected(address):
        pass


def test_a_cluster_that_is_gone_is_not_the_one_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert connection._resolved("auto") == "local"
    noted = tmp_path / "ray" / "ray_current_cluster"
    noted.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        noted.write_text(address + "\n")
        assert connection._resolved("auto") == address
    assert connection._resolved("auto") == "local"
    monkeypatch.setenv("RAY_ADDRESS", address)  # asked for by name: nothing takes its place
    with pytest.raises(RuntimeUnavailable, match=f"^{address}: no Ray cluster answers there"):
        connection._resolved("auto")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = "a cluster needs Ray Data: ray is not installed: pip install 'edgedet[ray]'"
    with pytest.raises(RuntimeUnavailable, match=f"^{re.escape(words)}$"), connection.connected():
        pass


@pytest.fixture
def two_machines() -> Iterator[str]:
    """The address of a cluster of two machines of one core each, both of them here; only it is ended."""
    needs_ray()
    address = f"127.0.0.1:{free_port()}"
    # Not below pytest's folder: the sockets in it must have short paths. `marker` tells its processes from another cluster's.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        marker = {"EDGEDET_TEST_CLUSTER": folder}
        variables = {**environment(Path(folder) / "cache"), **QUIET, **marker, "PYTHONPATH": os.pathsep.join(sys.path)}
        common = ["--num-cpus=1", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0", "--block"]
        head = ["--head", f"--port={address.rpartition(':')[2]}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        head += ["--include-dashboard=false", *([f"--ray-client-server-port={free_port()}"] if find_spec("grpc") else [])]
        started: list[subprocess.Popen[bytes]] = []
        try:
            for machine in (head, [f"--address={address}"]):
                command = [sys.executable, "-m", "ray.scripts.scripts", "start", *machine, *common]
                said = Path(folder) / f"said-{len(started)}.txt"
                with said.open("wb") as file:
                    started.append(subprocess.Popen(command, env=variables, stdout=file, stderr=file, start_new_session=True))
                wait_for(started[-1], said)
            yield address
        finally:
            for pid in marked(marker):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in started:
                process.wait(timeout=10)


def wait_for(process: subprocess.Popen[bytes], said: Path) -> None:
    """Until a machine is part of its cluster."""
    for _ in range(1200):
        if "Ray runtime started" in said.read_text():
            return
        assert process.poll() is None, f"`ray start` ended with {process.returncode}: {said.read_text()}"
        time.sleep(0.1)
    raise AssertionError(f"a machine of the cluster did not come up in two minutes: {said.read_text()}")


def marked(variables: dict[str, str]) -> list[int]:
    """The processes whose environment holds these variables."""
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_two_machines_write_what_one_writes(make_onnx_artifact, files, tmp_path, two_machines):
    artifact = make_onnx_artifact(calibration=Calibration(unsure=(0.4, 0.6), thresholds={"half": 0.5, "low": 0.1}))
    request = ["detect", artifact.path, files[0].parent, "--batch-size", BATCH, "--operating-point", "low", "--json", "-"]
    here = run(*request, "--threads", "1", cache=tmp_path / "cache")
    there = run(*request, "--engine", "ray", "--address", two_machines, cache=tmp_path / "cache", **QUIET)
    assert there.returncode == here.returncode == 1, there.stderr
    assert there.stdout == here.stdout  # every digit of every logit
    rows = [msgspec.json.decode(line) for line in there.stdout.splitlines()]
    assert [row["error"] for row in rows].count(None) == 39
    said, *rest = there.stderr.splitlines()
    assert said == "edgedet: 40 images on 2 machines of a Ray cluster, 2 processes"
    assert rest == here.stderr.splitlines()


@pytest.mark.slow
def test_ctrl_c_ends_the_cluster_that_was_started(make_onnx_artifact, files, tmp_path):
    needs_ray()
    request = ["detect", make_onnx_artifact().path, files[0].parent, "--engine", "ray", "--address", "local", "--json", "-"]
    marker = {"EDGEDET_TEST_CLUSTER": str(tmp_path)}
    done = press_ctrl_c(*request, cache=tmp_path / "cache", when=b"scoring", **QUIET, **marker)
    assert done.returncode == 130, done.stderr
    assert done.stderr.rstrip().endswith("edgedet: interrupted")
    assert "Traceback" not in done.stderr
    for _ in range(100):  # a process that was told to end takes a moment
        if not marked(marker):
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {marked(marker)}")
