"""``edgedet bundle | self-test``; ``edgedet deploy`` has a test of its own."""

from __future__ import annotations

import json
import tarfile

import pytest
from command import assert_one_line
from tiny_bundle import TARGET, exported, labelled

from edgedet.export import bundle as bundles


@pytest.fixture
def artifact(make_onnx_artifact, tmp_path):
    return exported(make_onnx_artifact(), tmp_path / "artifact").path


@pytest.fixture
def data(tmp_path):
    labelled(tmp_path / "data").save(tmp_path / "data/index.csv")
    return tmp_path / "data/index.csv"


def test_a_bundle_is_packed_and_tested_where_it_was_unpacked(edgedet, artifact, data, tmp_path):
    out = tmp_path / "b.tar.gz"
    packed = edgedet("bundle", artifact, "--target", TARGET, "--out", out, "--data", data, "--sample", 4, "--json", "-")
    assert packed.code == 0, packed.err
    said = json.loads(packed.out)
    assert said["sha256"] == bundles.inspect(out).digest
    assert said["bundle"]["sample"]["n"] == 4

    with tarfile.open(out) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    options = ("--runtime", "onnxruntime", "--seconds", "0.1")
    tested = edgedet("self-test", tmp_path / "there", *options, "--json", tmp_path / "result.json")
    assert tested.code == 0, tested.err
    shown = " ".join(tested.out.split())
    assert "0 of 16 verdicts flip" in shown
    assert "0 of 4 verdicts flip" in shown
    assert "standing in for tensorrt" in shown
    assert "note: this machine is no Jetson Orin Nano" in shown
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == json.loads((tmp_path / "there/self-test.json").read_text())


def test_a_test_that_fails_is_shown_kept_and_an_error(edgedet, artifact, tmp_path):
    out = tmp_path / "b.tar.gz"
    assert edgedet("bundle", artifact, "--target", TARGET, "--out", out).code == 0
    with tarfile.open(out) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    done = edgedet("self-test", tmp_path / "there", "--runtime", "null")
    assert done.code == 1
    assert "verdicts flip" in done.out
    assert_one_line(done.err.splitlines(keepends=True)[-1], "the self-test failed:", "tiny on null", "max_relative")
    assert "max_relative" in json.loads((tmp_path / "there/self-test.json").read_text())["failed"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bundle", "{artifact}", "--target", TARGET, "--out", "{tmp}/artifact"], 1, "exists already"),
        (["bundle", "{artifact}", "--target", "jetson-nano", "--out", "{tmp}/b"], 1, "is no target"),
        (["bundle", "{artifact}", "--target", "rtx-3090", "--out", "{tmp}/b"], 1, "export it with --target rtx-3090"),
        (["bundle", "{artifact}", "--target", TARGET, "--out", "{tmp}/b", "--wheels", "{tmp}/no"], 2, "a folder of wheels"),
        (["bundle", "{tmp}", "--target", TARGET, "--out", "{tmp}/b"], 1, "not an artifact"),
        (["deploy", "{tmp}/no.tar.gz", "user@nowhere"], 1, "cannot be read as a bundle"),
        (["self-test", "{tmp}"], 1, "no bundle can be read there"),
    ],
)
def test_bad_requests_are_one_line(edgedet, artifact, tmp_path, arguments, code, words):
    done = edgedet(*(each.format(tmp=tmp_path, artifact=artifact) for each in arguments))
    assert done.code == code
    assert_one_line(done.err, words)
