"""What holds for every command: help, exit codes, one line for an error, silence when nobody reads."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from command import COMMAND, SHORT, assert_one_line, environment, press_ctrl_c, run
from full_disk import no_file_beyond

COMMANDS = (
    "models", "recipes", "targets", "data scan", "data audit", "data control", "data simulate", "data reconstruct",
    "train", "ensemble", "distill", "prune", "qat", "export", "eval", "bench", "detect", "explain", "serve", "show", "lint",
    "bundle", "deploy", "self-test", "estimate", "report", "compress",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(edgedet, command):
    done = edgedet(*command.split(), "--help")
    assert done.code == 0
    assert f"Usage: edgedet {command}" in done.out
    assert "--json" in done.out or command == "serve"  # which answers in JSON, over HTTP


def test_the_list_of_commands_is_complete(edgedet):
    top = edgedet("--help").out.partition("Commands:")[2]
    nested = edgedet("data", "--help").out.partition("Commands:")[2]
    names = re.findall(r"^  ([\w-]+)  ", top, re.MULTILINE)
    assert {*names} - {"data"} == {name for name in COMMANDS if " " not in name}
    assert {f"data {name}" for name in re.findall(r"^  ([\w-]+)  ", nested, re.MULTILINE)} == {
        name for name in COMMANDS if " " in name
    }


def test_help_needs_neither_torch_nor_a_runtime():
    code = "import sys; from edgedet import cli; print({'torch', 'onnxruntime', 'onnx'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_version_is_the_package_s(edgedet):
    from edgedet import __version__

    assert edgedet("--version").out == f"edgedet {__version__}\n"


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--no-such-option"], ["bench"], ["detect", "artifact"]])
def test_a_command_line_that_makes_no_sense_is_exit_code_2(edgedet, arguments):
    done = edgedet(*arguments)
    assert done.code == 2
    assert "Usage: edgedet" in done.err
    assert not done.out


def test_an_error_is_one_line_and_a_traceback_only_when_asked(tmp_path):
    plain = run("show", tmp_path, cache=tmp_path)
    assert plain.returncode == 1
    assert not plain.stdout
    assert_one_line(plain.stderr, str(tmp_path), "not an artifact", "give the folder that a stage wrote")
    asked = run("--debug", "show", tmp_path, cache=tmp_path)
    set_up = run("show", tmp_path, cache=tmp_path, EDGEDET_DEBUG="1")
    for debugged in (asked, set_up):
        assert debugged.returncode == 1
        assert "Traceback (most recent call last)" in debugged.stderr
        assert "edgedet.errors.ArtifactError" in debugged.stderr


def test_a_refusal_of_the_operating_system_is_one_line(edgedet, tmp_path):
    done = edgedet("recipes", "--json", tmp_path / "no" / "such" / "folder.json")
    assert done.code == 1
    assert_one_line(done.err, "folder.json: cannot be written: No such file or directory")


def test_a_file_that_cannot_be_written_whole_leaves_the_older_one(edgedet, tmp_path):
    (tmp_path / "recipes.json").write_text("[]")
    (tmp_path / "link.json").symlink_to("recipes.json")
    with no_file_beyond(100):
        done = edgedet("recipes", "--json", tmp_path / "recipes.json")
    assert done.code == 1
    assert_one_line(done.err, "recipes.json: cannot be written: File too large")
    assert (tmp_path / "recipes.json").read_text() == "[]"
    assert edgedet("recipes", "--json", tmp_path / "link.json").code == 0
    assert json.loads((tmp_path / "recipes.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"recipes.json", "link.json"}


def test_json_goes_down_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    command = [*COMMAND, "recipes", "--json", tmp_path / "pipe"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment(tmp_path)):
        assert json.loads((tmp_path / "pipe").read_text())


def test_a_refusal_that_nobody_foresaw_is_one_line_too(edgedet, demo, tmp_path):
    """Without --verify, nothing has looked at the graph before its size is asked for."""
    shutil.copytree(demo.int8, tmp_path / "torn")
    (tmp_path / "torn" / "model.onnx").unlink()
    done = edgedet("show", tmp_path / "torn")
    assert done.code == 1
    assert_one_line(done.err, "model.onnx", "No such file or directory")


def test_nothing_is_said_when_the_reader_has_gone(demo, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "detect", demo.int8, demo.data / "test"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
        timeout=300,
    )
    os.close(writer)
    assert done.stderr == ""


def test_ctrl_c_is_exit_code_130_and_one_line(demo, tmp_path):
    folder = tmp_path / "many" / "0_real"
    folder.mkdir(parents=True)
    image = next((demo.data / "test" / "0_real").rglob("*.jpg"))
    for number in range(6000):
        os.link(image, folder / f"{number}.jpg")
    done = press_ctrl_c("data", "scan", folder.parent, "--out", tmp_path / "index.csv", cache=tmp_path / "cache", when=b"scan")
    assert done.returncode == 130
    assert "edgedet: interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not (tmp_path / "index.csv").exists()


def test_ctrl_c_while_everything_is_imported_is_one_line_too():
    code = """if True:
        import signal, sys
        class Pressed:
            def find_spec(self, name, path=None, target=None):
                if name == "typer":
                    signal.raise_signal(signal.SIGINT)
        sys.meta_path.insert(0, Pressed())
        from edgedet.__main__ import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "edgedet: interrupted\n")


def test_of_the_processes_of_torchrun_only_the_first_speaks(edgedet, demo, monkeypatch, tmp_path):
    request = ("eval", demo.int8, "--data", demo.data, "--json", tmp_path / "said.json")
    monkeypatch.setenv("RANK", "1")
    follower = edgedet(*request)
    assert (follower.code, follower.out, follower.err) == (0, "", "")
    assert not (tmp_path / "said.json").exists()
    monkeypatch.setenv("RANK", "0")
    assert "bootstrap intervals" in edgedet(*request).out
    assert (tmp_path / "said.json").exists()


@pytest.mark.slow
def test_a_gate_that_fails_under_torchrun_is_told_once(demo, tmp_path):
    gates = 'gates=[{metric="balanced_accuracy", against="absolute", min_value=1.0}]'
    training = [*SHORT, "training.epochs=1", "detector.arguments.width=16", gates]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "edgedet"]
    stage = ["train", "demo-teacher", *training, "--data", demo.data]
    places = ["--out", tmp_path / "a", "--json", tmp_path / "a.json"]
    command = [*launcher, *stage, *places]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(demo.root / "cache"), timeout=600)
    assert done.returncode != 0
    assert done.stdout.count("gate: balanced_accuracy >= 1") == 1
    assert done.stderr.count("of its gates failed") == 1
    assert json.loads((tmp_path / "a.json").read_text())["manifest"]["stage"] == "train"
