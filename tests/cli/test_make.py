"""``edgedet train | distill | prune | export``: what they write, what they refuse, how they stop and go on."""

import json
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from command import COMMAND, TINY, assert_one_line, environment, run

from edgedet.artifact import Artifact
from edgedet.data.archive import open_data
from edgedet.evaluate.assess import ancestor_evaluations, parent_evaluations
from edgedet.evaluate.slices import evaluate

FAILING_GATE = '[[gates]]\nmetric = "balanced_accuracy"\nagainst = "absolute"\nmin_value = 1.0\n'


@pytest.mark.parametrize("name", ["teacher", "student", "pruned", "fp32", "int8"])
def test_every_stage_writes_json_and_nothing_else_to_stdout(demo, name):
    said = json.loads(demo.said[name])
    artifact = Artifact.load(demo.root / name)
    assert said["digest"] == artifact.digest
    assert said["manifest"]["stage"] == artifact.manifest.stage
    assert 0 <= said["manifest"]["metrics"]["balanced_accuracy"]["value"] <= 1


def test_the_lineage_runs_through_every_stage(demo):
    manifest = Artifact.load(demo.int8).manifest
    assert [each.stage for each in manifest.lineage] == ["train", "distill", "prune"]
    assert manifest.graphs[0].precision == "int8"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "demo-teecher", "--out", "{new}"], 1, ["'demo-teecher'", "did you mean 'demo-teacher'?"]),
        (["train", "{tmp}/mine.toml", "--out", "{new}"], 1, ["no recipe file at", "mine.toml"]),
        (["train", "demo-teacher", "training.epoch=1", "--out", "{new}"], 1, ["teacher.toml: unknown key", "mean 'epochs'?"]),
        (["train", "demo-teacher", "training.epochs=0", "--out", "{new}"], 1, ["training.epochs", "got 0"]),
        (["train", "demo-teacher", "training.epochs=few", "--out", "{new}"], 1, ["training.epochs", "expected `int`", "'few'"]),
        (["train", "demo-teacher", "training.epochs", "--out", "{new}"], 1, ["write key=value"]),
        (["train", "demo-student", "--out", "{new}"], 2, ["is a recipe for `edgedet distill`"]),
        (["train", "demo-teacher", "--out", "{new}"], 2, ["--data", "$EDGEDET_DATA"]),
        (["train", "demo-teacher", "--data", "{tmp}/nothing", "--out", "{new}"], 1, ["nothing: no such file or folder"]),
        (["train", "demo-teacher", "--data", "{tmp}", "--out", "{tmp}"], 1, ["exists already", "another --out"]),
        (["distill", "demo-student", "--teacher", "{tmp}", "--out", "{new}"], 1, ["not an artifact"]),
        (
            ["distill", "demo-student", "--teacher", "{pruned}", "--teacher", "{pruned}", "--data", "{data}", "--out", "{new}"],
            1,
            ["is given twice as a teacher"],
        ),
        (["prune", "demo-prune", "--from", "{int8}", "--data", "{data}", "--out", "{new}"], 1, ["expected a checkpoint"]),
        (["export", "{pruned}", "--int8", "--out", "{new}"], 2, ["--data"]),
        (["export", "{pruned}", "--int8", "--fp32", "--out", "{new}"], 2, ["--fp32 and --int8 exclude each other"]),
        (["export", "{pruned}", "--fp16", "--target", "cpu-x86", "--out", "{new}"], 1, ["takes fp32 or int8, not fp16"]),
        (["export", "{pruned}", "--target", "cpu-x68", "--out", "{new}"], 1, ["no target", "did you mean 'cpu-x86'?"]),
        (["export", "{pruned}", "--gate", "{tmp}/g.toml", "--out", "{new}"], 2, ["--gate needs --data"]),
        (["export", "{pruned}", "--ranges", "auto", "--out", "{new}"], 2, ["--ranges", "are options of --int8"]),
        (["export", "{pruned}", "--int8", "--ranges", "best", "--data", "{data}", "--out", "{new}"], 1, ["ranges", "'best'"]),
        (["export", "{pruned}", "mixed.max_flip=1", "--int8", "--data", "{data}", "--out", "{new}"], 1, ["mean 'max_flips'?"]),
        (["export", "{pruned}", "--gate", "{tmp}/g.toml", "--data", "{data}", "--out", "{new}"], 2, ["no gate file"]),
        (["qat", "demo-prune", "--from", "{pruned}", "--out", "{new}"], 2, ["is a recipe for `edgedet prune`"]),
        (["qat", "int8-finetune", "--from", "{int8}", "--data", "{data}", "--out", "{new}"], 1, ["expected a checkpoint"]),
        (["qat", "int8-finetune", "training.amp=true", "--from", "{pruned}", "--out", "{new}"], 1, ["`training.amp` must be"]),
    ],
)
def test_bad_requests_are_one_line(edgedet, demo, tmp_path, arguments, code, words):
    places = {"tmp": tmp_path, "new": tmp_path / "new", "data": demo.data, "pruned": demo.pruned, "int8": demo.int8}
    done = edgedet(*(argument.format(**places) for argument in arguments))
    assert done.code == code, done.err
    assert_one_line(done.err, *words)
    assert not done.out
    assert not any(tmp_path.glob("new*"))


def test_a_failed_gate_is_exit_code_3_and_the_artifact_is_there(edgedet, demo, tmp_path):
    (tmp_path / "gates.toml").write_text(FAILING_GATE)
    out = tmp_path / "out"
    done = edgedet("export", demo.pruned, "--data", demo.data, "--gate", tmp_path / "gates.toml", "--out", out)
    assert done.code == 3
    assert_one_line(done.err, f"{out} was written, but 1 of its gates failed", "balanced_accuracy >= 1")
    assert "gate: balanced_accuracy >= 1 (overall, clean): FAILS" in done.out
    assert Artifact.load(out).manifest.metrics["gates"][0]["outcome"] == "failed"


def test_int8_that_fails_its_gate_names_the_command_that_trains_it_and_that_command_works(edgedet, demo, tmp_path):
    (tmp_path / "gates.toml").write_text(FAILING_GATE)
    gate = ("--gate", tmp_path / "gates.toml")
    done = edgedet("export", demo.pruned, "--int8", "--data", demo.data, *gate, "--out", tmp_path / "int8")
    assert done.code == 3
    assert_one_line(done.err, "1 of its gates failed", "to train it: edgedet qat int8-finetune --from")
    command = shlex.split(done.err.partition("to train it: edgedet ")[2])
    trained = edgedet(*command, "training.epochs=1")
    assert trained.code == 0, trained.err
    assert "trained with fake quantization" in trained.out
    manifest = Artifact.load(tmp_path / "int8-qat").manifest
    assert (manifest.stage, manifest.graphs[0].precision) == ("qat", "int8")
    assert [each.stage for each in manifest.lineage] == ["train", "distill", "prune"]


def test_the_data_set_of_the_environment_is_used(edgedet, demo, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_DATA", str(demo.data / "index.csv"))
    done = edgedet("export", demo.pruned, "--out", tmp_path / "out", "--json", tmp_path / "out.json")
    assert done.code == 0, done.err
    said = json.loads((tmp_path / "out.json").read_text())
    assert said["manifest"]["metrics"]["splits"] == ["val"]
    assert said["manifest"]["metrics"]["flips_against_parent"]["n"] == 40


def test_an_interrupted_run_says_so_and_is_finished_by_resume(demo, tmp_path):
    out = tmp_path / "teacher"
    arguments = ["train", "demo-teacher", *TINY, "training.epochs=30", "--data", demo.data, "--out", out]
    figures = tmp_path / ".teacher.work" / "metrics.jsonl"
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(demo.root / "cache"),
    )
    try:
        while not (figures.is_file() and figures.stat().st_size) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    last = err.splitlines()[-1]
    assert last.startswith("edgedet: stopped at step ")
    assert last.endswith("run the same command with --resume to go on")
    assert "Traceback" not in err
    assert not said
    assert not out.exists()
    anew = run(*arguments, cache=demo.root / "cache")
    assert anew.returncode == 1
    assert_one_line(anew.stderr, ".teacher.work: holds an unfinished run", "add --resume", "remove that folder to start anew")
    resumed = run(*arguments, "--resume", cache=demo.root / "cache")
    assert resumed.returncode == 0, resumed.stderr
    epochs = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines() if '"validation"' in line]
    assert epochs == list(range(30))
    assert not figures.parent.exists()


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver")
def test_an_engine_without_a_gpu_is_one_line(edgedet, make_onnx_artifact, tmp_path):
    done = edgedet("export", make_onnx_artifact().path, "--engine", "--out", tmp_path / "engine")
    assert done.code == 1
    assert_one_line(done.err)
    assert "tensorrt is not installed" in done.err or "no NVIDIA driver" in done.err
    assert not list(tmp_path.glob("*engine*"))


@pytest.mark.parametrize("extra", [["--int8"], ["--fp16"], ["--fp32"], ["--target", "jetson-orin-nano"]])
def test_an_engine_keeps_what_its_graph_is(edgedet, make_onnx_artifact, tmp_path, extra):
    done = edgedet("export", make_onnx_artifact().path, "--engine", *extra, "--out", tmp_path / "engine")
    assert done.code == 2
    assert_one_line(done.err, "--engine keeps the graph's precision, outputs and target")


def test_int8_shows_what_was_tried_and_keeps_it_in_the_manifest(edgedet, demo, tmp_path):
    out = tmp_path / "out"
    options = ("--ranges", "auto", "--bias-correction", "auto", "--mixed", "mixed.max_error=0.02", "mixed.max_flips=1.0")
    done = edgedet("export", demo.pruned, "--int8", *options, "--data", demo.data, "--out", out)
    assert done.code == 0, done.err
    found = Artifact.load(out).manifest.metrics["quantization"]
    assert len(found["ranges"]) == 5
    assert found["held_out"]["mean_error"] <= 0.02
    assert "ranges, on held-out images" in done.out
    assert "percentile 99.99" in done.out
    assert "note: bias correction in" in done.out
    if "mixed" in found:
        assert "what INT8 costs in each block alone" in done.out
        assert "time, estimated" in done.out


def test_what_is_exported_without_data_says_nothing_of_what_its_parent_was_compared_with(edgedet, demo, tmp_path):
    """Accuracy is the parent's, as a note says; a comparison of the parent's, and its gates, are of another artifact."""
    done = edgedet("export", demo.student, "--out", tmp_path / "out", "--json", "-")
    assert done.code == 0, done.err
    made, parent = Artifact.load(tmp_path / "out"), Artifact.load(demo.student)
    assert made.manifest.metrics["balanced_accuracy"] == parent.manifest.metrics["balanced_accuracy"]
    assert "flips_against_parent" in parent.manifest.metrics
    assert not {"flips_against_parent", "flips_against_ancestor", "gates", "threshold_drift"} & set(made.manifest.metrics)
    val = open_data(demo.data).split("val")
    own = parent_evaluations(made, val, ["clean"])["clean"]
    np.testing.assert_array_equal(own.logits, evaluate(made, val, n_boot=0).logits)
    ancestor = ancestor_evaluations(made, val)["clean"]
    np.testing.assert_array_equal(ancestor.logits, parent_evaluations(Artifact.load(demo.teacher), val, [])["clean"].logits)


def test_a_triton_repository_is_made_of_an_onnx_artifact(edgedet, make_onnx_artifact, tmp_path, monkeypatch):
    made = make_onnx_artifact("mine")
    monkeypatch.setenv("EDGEDET_DATA", str(tmp_path))  # is no option of this command
    done = edgedet("export", made.path, "--triton", "--out", tmp_path / "repository", "--json", "-")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["model"], said["artifact"]) == ("mine", made.digest)
    assert (tmp_path / "repository" / "mine" / "config.pbtxt").is_file()
    again = edgedet("export", made.path, "--triton", "--int8", "--out", tmp_path / "other")
    assert again.code == 2
    assert_one_line(again.err, "--triton takes an ONNX artifact as it is")
