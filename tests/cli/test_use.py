"""``edgedet detect | serve | show``: scores for good files, one line for bad ones, and nothing from a file that was changed."""

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import hostile
import pytest
from command import COMMAND, assert_one_line, environment, run

from edgedet.artifact import Artifact
from edgedet.runtime.detector import Detector


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_detect_prints_a_line_an_image_and_the_same_as_json_lines(edgedet, demo, tmp_path):
    images = sorted((demo.data / "val" / "0_real").rglob("*.jpg"))
    plain = edgedet("detect", demo.int8, *images[:2], "--json", tmp_path / "found.jsonl")
    alone = edgedet("detect", demo.int8, *images[:2], "--json", "-")
    assert (plain.code, alone.code) == (0, 0)
    found = lines(alone.out)
    assert found == lines((tmp_path / "found.jsonl").read_text())
    assert [each["image"] for each in found] == [str(path) for path in images[:2]]
    with Detector.load(demo.int8) as detector:
        expected = detector.predict(images[:2])
    assert [each["score"] for each in found] == [each.score for each in expected]
    for line, each in zip(plain.out.splitlines(), expected, strict=True):
        assert line.split()[:2] == [each.verdict, f"{each.score:.4f}"]


def test_for_many_images_the_fastest_runtime_is_measured_and_named(edgedet, demo, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr("edgedet.cli.use.MEASURED_FROM", 2)
    images = sorted((demo.data / "val" / "0_real").rglob("*.jpg"))[:3]
    done = edgedet("detect", demo.int8, *images, "--json", "-")
    assert done.code == 0, done.err
    assert_one_line(done.err, f"{demo.int8} runs on ", "openvino is ", "times as fast as onnxruntime")
    with Detector.load(demo.int8) as detector:
        expected = [each.logit for each in detector.predict(images)]
    assert [each["logit"] for each in lines(done.out)] == pytest.approx(expected, abs=0.05)


def test_another_operating_point_moves_the_threshold(edgedet, demo):
    image = next((demo.data / "val").rglob("*.jpg"))
    done = edgedet("detect", demo.int8, image, "--operating-point", "half", "--json", "-")
    assert lines(done.out)[0]["threshold"] == 0.5


def test_a_folder_of_hostile_files_scores_every_good_one(demo, tmp_path):
    files = hostile.make(tmp_path / "hostile")
    done = run("detect", demo.int8, tmp_path / "hostile", "--json", "-", cache=tmp_path / "cache")
    assert done.returncode == 1
    found = {each["image"]: each for each in lines(done.stdout)}
    readable = {str(each.path).encode("utf-8", "backslashreplace").decode(): each for each in files}
    assert set(found) == set(readable)
    wrong = [name for name, each in readable.items() if (found[name]["error"] is None) != (each.outcome == "score")]
    assert not wrong
    bad = [each for each in files if each.outcome == "error"]
    said = done.stderr.splitlines()
    assert said[-1] == f"edgedet: {len(bad)} of {len(files)} could not be read"
    assert len(said) == len(bad) + 1
    assert all(line.startswith("edgedet: ") for line in said)
    for each in bad:
        assert any(each.path.name in line and each.message in line for line in said), each


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detect", "{tmp}", "a.jpg"], ["not an artifact"]),
        (["detect", "{int8}", "{tmp}/empty"], ["no images in this folder"]),
        (["detect", "{int8}", "{tmp}/empty", "--engine", "ray"], ["no images in this folder"]),
        (["detect", "{int8}", "a.jpg", "--operating-point", "fpr2"], ["no operating point 'fpr2'"]),
        (["detect", "{int8}", "a.jpg", "--runtime", "onnxruntme"], ["did you mean 'onnxruntime'?"]),
        (["detect", "{int8}", "a.jpg", "--json", "{tmp}/no/such.jsonl"], ["such.jsonl: cannot be written"]),
        (["show", "{tmp}/nowhere"], ["not an artifact"]),
    ],
)
def test_bad_requests_are_one_line(edgedet, demo, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    done = edgedet(*(argument.format(tmp=tmp_path, int8=demo.int8) for argument in arguments))
    assert done.code == 1, done.err
    assert_one_line(done.err, *words)
    assert not done.out


def test_an_address_without_a_cluster_to_go_to_is_a_mistake(edgedet, tmp_path):
    done = edgedet("detect", tmp_path, "a.jpg", "--address", "10.0.0.1:6379")
    assert done.code == 2
    assert_one_line(done.err, "--address 10.0.0.1:6379 is of a Ray cluster: add --engine ray")


def test_a_changed_weight_file_is_refused_by_its_digest(edgedet, demo, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(demo.int8, changed)
    graph = changed / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    image = next((demo.data / "val").rglob("*.jpg"))
    for arguments in (["detect", changed, image], ["show", changed, "--verify"], ["eval", changed, "--data", demo.data]):
        done = edgedet(*arguments)
        assert done.code == 1
        assert_one_line(done.err, "model.onnx has sha256", "the file was changed after it was written")
    assert edgedet("show", changed).code == 0


def test_show_prints_the_manifest_and_the_lineage(edgedet, demo, tmp_path):
    done = edgedet("show", demo.int8, "--verify", "--json", tmp_path / "shown.json")
    assert done.code == 0, done.err
    assert "every file has the sha256 that the manifest lists" in " ".join(done.out.split())
    order = [done.out.rindex(f" {name} ") for name in ("teacher", "student", "pruned", "int8")]
    assert order == sorted(order)
    said = json.loads((tmp_path / "shown.json").read_text())
    assert said["verified"] is True
    assert said["digest"] == Artifact.load(demo.int8).digest
    assert json.loads(edgedet("show", demo.teacher, "--json", "-").out)["manifest"]["kind"] == "checkpoint"


def test_a_service_answers_what_is_under_way_and_stops_on_sigterm(demo, tmp_path):
    pytest.importorskip("fastapi")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*COMMAND, "serve", str(demo.int8), "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(tmp_path / "cache"))
    image = next(path for path in sorted(demo.data.rglob("*")) if path.suffix in (".png", ".jpg"))
    try:
        answer = posted(f"http://127.0.0.1:{port}/v1/detect", image.read_bytes())
        assert answer["verdict"] in ("real", "fake")
        assert answer["artifact"] == Artifact.load(demo.int8).digest
        other = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path / "cache"), timeout=60)
        assert other.returncode == 1
        assert "Choose another --port" in other.stderr.splitlines()[-1]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert err.count("\n") == 1, "that it serves, and nothing at its end"


def posted(url: str, body: bytes) -> dict:
    """The answer, once the service is up."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, data=body, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("the service did not come up in a minute")
