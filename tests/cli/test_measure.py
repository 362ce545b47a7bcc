"""``edgedet eval | bench``: tables for people, JSON for machines, gates as an exit code."""

import json
import shutil
import tarfile

import pytest
from command import assert_one_line, press_ctrl_c

from edgedet.artifact import Artifact
from edgedet.bench import result
from edgedet.data.archive import open_data
from edgedet.data.index import Index

GATES = """
[[gates]]
metric = "balanced_accuracy"
against = "absolute"
min_value = 0.0

[[gates]]
metric = "auc"
against = "absolute"
condition = "jpeg-50"
min_value = 1.0
"""
COMPARING = '[[gates]]\nmetric = "auc"\nmax_drop = 0.1\n'


def test_eval_measures_every_condition_and_compares(edgedet, demo):
    done = edgedet("eval", demo.int8, "--data", demo.data, "--degrade", "web", "--against", demo.fp32, "--json", "-")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert set(said["evaluations"]) == {"clean", "web"} == set(said["flips"]) == set(said["mcnemar"])
    assert said["artifact"] == Artifact.load(demo.int8).digest
    assert said["against"] == Artifact.load(demo.fp32).digest
    assert said["evaluations"]["clean"]["n_real"] == 20


def test_eval_prints_the_same_as_tables(edgedet, demo, tmp_path):
    done = edgedet("eval", demo.int8, "--data", demo.data, "--split", "test", "--json", tmp_path / "eval.json")
    assert done.code == 0, done.err
    assert "clean, split test" in done.out
    assert "(worst)" in done.out
    assert json.loads((tmp_path / "eval.json").read_text())["evaluations"]["clean"]["n_fake"] == 40


def test_an_archive_is_data(edgedet, demo, tmp_path):
    with tarfile.open(tmp_path / "set.tar.xz", "w:xz", preset=0) as packed:
        packed.add(demo.data, "set")
    done = edgedet("eval", demo.int8, "--data", tmp_path / "set.tar.xz", "--json", "-")
    again = edgedet("eval", demo.int8, "--data", demo.data, "--json", "-")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(again.out)


def test_a_failed_gate_is_exit_code_3_and_the_table_says_which(edgedet, demo, tmp_path):
    (tmp_path / "gates.toml").write_text(GATES)
    done = edgedet("eval", demo.int8, "--data", demo.data, "--gate", tmp_path / "gates.toml")
    assert done.code == 3
    assert_one_line(done.err, "1 of 2 gates failed", "auc >= 1 (overall, jpeg-50): FAILS")
    table = done.out.partition("gates: the 95 % bound is tested")[2]
    outcomes = [line.rstrip("│ ").split()[-1] for line in table.splitlines() if ">=" in line]
    assert outcomes == ["passed", "failed"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["eval", "{int8}"], 2, ["--data"]),
        (["eval", "{int8}", "--data", "{data}", "--split", "vall"], 1, ["no images in split 'vall'", "test, train, val"]),
        (["eval", "{int8}", "--data", "{data}", "--degrade", "jpg-60"], 1, ["'jpg-60'", "did you mean 'jpeg'?"]),
        (["eval", "{int8}", "--data", "{data}", "--degrade", "jpeg-0"], 1, ["jpeg-0", "1", "100"]),
        (["eval", "{int8}", "--data", "{data}", "--gate", "{gates}", "--split", "test"], 2, ["tested on --split val"]),
        (["eval", "{int8}", "--data", "{data}", "--gate", "{gates}", "--split", "train"], 2, ["tested on --split val"]),
        (["eval", "{int8}", "--data", "{data}", "--gate", "{comparing}"], 2, ["give it with --against"]),
        (["eval", "{int8}", "--data", "{data}", "--gate", "{wrong}"], 1, ["wrong.toml", "unknown key", "'metric'"]),
        (["bench", "{int8}", "{data}", "--no-anchor"], 1, ["not an artifact"]),
        (["bench", "{int8}", "--no-anchor", "--reference", "rtx-3080"], 1, ["rtx-3080", "did you mean 'rtx-3090'?"]),
        (["bench", "{int8}", "--reference", "rtx-3080"], 1, ["rtx-3080", "did you mean 'rtx-3090'?"]),
        (["bench", "{int8}", "--runtime", "onnxruntim"], 1, ["no runtime is called 'onnxruntim'", "mean 'onnxruntime'?"]),
        (["eval", "{int8}", "--data", "{tmp}/nothing", "--degrade", "weeb"], 1, ["'weeb'", "did you mean 'web'?"]),
        (["eval", "{int8}", "--data", "{data}", "--degrade", "blur-nan"], 1, ["blur-nan: expected a level from 0 to 100"]),
        (["eval", "{int8}", "--data", "{data}", "--against", "{data}"], 1, ["data: not an artifact"]),
        (["eval", "{torn}", "--data", "{data}"], 1, ["torn: model.onnx is missing", "make the artifact again"]),
        (["bench", "{int8}", "{torn}"], 1, ["torn: model.onnx is missing", "make the artifact again"]),
    ],
)
def test_bad_requests_are_one_line(edgedet, demo, tmp_path, arguments, code, words):
    places = {name: tmp_path / f"{name}.toml" for name in ("gates", "comparing", "wrong")}
    places["gates"].write_text(GATES)
    places["comparing"].write_text(COMPARING)
    places["wrong"].write_text(COMPARING.replace("metric", "metrics"))
    places |= {"int8": demo.int8, "data": demo.data, "tmp": tmp_path, "torn": tmp_path / "torn"}
    shutil.copytree(demo.int8, places["torn"])
    (places["torn"] / "model.onnx").unlink()
    done = edgedet(*(argument.format(**places) for argument in arguments))
    assert done.code == code, done.err
    assert_one_line(done.err, *words)
    assert not done.out


def test_bench_writes_rows_as_json_lines_and_markdown(edgedet, demo, tmp_path):
    record, markdown = tmp_path / "rows.jsonl", tmp_path / "table.md"
    done = edgedet(
        "bench", demo.fp32, demo.int8, "--no-anchor", "--seconds", "0.1", "--threads", "1", "--data", demo.data,
        "--split", "test", "--record", record, "--markdown", markdown, "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [row["name"] for row in rows if row["kind"] == "measured"] == ["fp32", "int8"]
    assert [row.digest for row in result.load(record)] == [row["digest"] for row in rows]
    assert rows[1]["accuracy"]["split"] == "test"
    assert rows[1]["accuracy"]["flip_rate"]["value"] is not None
    assert markdown.read_text().startswith("| model |")


def test_accuracy_is_of_the_images_that_are_given_not_of_those_it_was_validated_on(edgedet, demo, tmp_path):
    whole = open_data(demo.data)
    val = whole.split("val")
    fewer = whole.where(lambda row: row.split != "val" or row in val.rows[::2])
    fewer.save(tmp_path / "fewer.csv")
    shown = {}
    for data in (demo.data, tmp_path / "fewer.csv"):
        done = edgedet("bench", demo.int8, "--no-anchor", "--seconds", "0.1", "--threads", "1", "--data", data, "--json", "-")
        assert done.code == 0, done.err
        shown[data] = json.loads(done.out)[0]["accuracy"]
    assert shown[demo.data]["balanced_accuracy"]["low"] == Artifact.load(demo.int8).manifest.metrics["balanced_accuracy"]["low"]
    assert shown[demo.data] != shown[tmp_path / "fewer.csv"]


def test_a_row_that_cannot_be_measured_is_an_error(edgedet, demo):
    done = edgedet("bench", demo.int8, "--no-anchor", "--seconds", "0.1", "--runtime", "torch")
    assert done.code == 1
    assert "failed" in done.out
    assert "1 of 1 rows could not be measured: int8:" in done.err


def test_what_was_measured_is_shown_though_it_cannot_be_recorded(edgedet, demo, tmp_path):
    (tmp_path / "file").touch()
    bench = ("bench", demo.int8, "--no-anchor", "--seconds", "0.1", "--threads", "1", "--record", tmp_path / "file" / "a.jsonl")
    for done, shown in ((edgedet(*bench), "int8"), (edgedet(*bench, "--json", "-"), '"name": "int8"')):
        assert done.code == 1
        assert done.err.splitlines()[-1].startswith(f"edgedet: {tmp_path}/file/a.jsonl: results cannot be written")
        assert shown in done.out


def assert_interrupted(done):
    assert done.returncode == 130
    assert done.stderr.endswith("edgedet: interrupted\r\n")  # after what clears the bar
    assert "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("when", [b"decode", b"evaluate web"])
def test_ctrl_c_ends_an_evaluation_and_leaves_nothing_half_decoded(demo, tmp_path, when):
    index = Index.load(demo.data / "index.csv").split("val")
    Index(index.root, index.rows * 100).save(tmp_path / "many.csv")
    request = ("eval", demo.int8, "--data", tmp_path / "many.csv", "--degrade", "web", "--json", tmp_path / "said.json")
    assert_interrupted(press_ctrl_c(*request, cache=tmp_path / "cache", when=when))
    assert {path.name for path in tmp_path.iterdir()} == {"many.csv", "cache"}
    assert len(list((tmp_path / "cache" / "pixels").iterdir())) == (when != b"decode")


def test_ctrl_c_ends_a_benchmark(demo, tmp_path):
    request = ("bench", demo.int8, "--no-anchor", "--threads", "1", "--record", tmp_path / "rows.jsonl")
    assert_interrupted(press_ctrl_c(*request, cache=tmp_path / "cache", when=b"single-stream"))
    assert not (tmp_path / "rows.jsonl").exists()
