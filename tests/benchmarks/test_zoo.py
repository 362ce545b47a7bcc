"""The zoo's scoreboard: what a row holds, when it is kept, and what is drawn of it."""

import json

import pytest
import zoo
from onnx import TensorProto, helper
from scoreboard import documents, row, store

pytest.importorskip("torch")

from edgedet import models
from edgedet.export import compile as compiler


def test_a_detector_is_measured_at_its_published_input_and_spai_at_one_patch():
    for name, side in (("npr", 224), ("ram-net", 256), ("spai", 224)):
        spec, preprocess = row.subject(name)
        assert (spec.name, preprocess.height, preprocess.width) == (name, side, side)
    assert models.lookup("spai").preprocess.height == 2 * 224


def test_a_rows_code_is_its_builders_module_and_all_that_it_imports():
    found = row.sources("ram-net")
    assert {"ram", "blocks", "table", "layout"} <= set(found)
    assert "npr" not in found
    assert row.code_of("ram-net") == row.code_of("ram-net") != row.code_of("npr")


def test_layers_in_integers_read_them_on_both_sides():
    nodes = [
        helper.make_node("DequantizeLinear", ["x8", "s"], ["x"]),
        helper.make_node("DequantizeLinear", ["w8", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["a"], name="whole"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="weights alone"),
        helper.make_node("Relu", ["x"], ["c"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("b", "c")]
    graph = helper.make_graph(nodes, "g", [], ends)
    assert row.integer_layers(helper.make_model(graph)) == (1, 2)


def test_a_refusal_is_told_without_the_paths_of_one_machine(tmp_path):
    def refuse():
        raise zoo.models.create.__globals__["ModelError"](f"{tmp_path}/checkpoint: no")

    assert row._told(refuse) == {"refused": "checkpoint: no"}
    assert row._told(lambda: {"parity": 1.0})["parity"] == 1.0


def measured(name: str, **more) -> store.Row:
    return {"name": name, "code": "a", "input": "32x32", "parameters": 1234, "mmacs": 8.25, "parts": {}, **more}


@pytest.mark.parametrize(
    ("before", "stands"),
    [(None, False), (measured("npr"), True), (measured("npr", code="b"), False), (measured("npr", stopped="killed"), False)],
)
def test_a_whole_row_of_the_same_code_is_kept(before, stands):
    assert store.stands(before, "a") is stands


def test_rows_are_kept_in_the_tables_order_without_those_that_are_gone(tmp_path):
    path = tmp_path / "results" / "zoo.json"
    store.save(path, {"npr": measured("npr"), "gone": measured("gone"), "edge32": measured("edge32")})
    assert list(store.load(path)) == ["edge32", "npr"]
    assert store.load(tmp_path / "none.json") == {}


CHILD = """
import json, sys, resource
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
resource.setrlimit(resource.RLIMIT_DATA, (int(float(given["--memory"]) * 2**30),) * 2)
open(given["--answer"], "w").write(json.dumps({"name": given["--row"], "parts": {"cpu-x86 fp32": {}}}))
{end}
"""


@pytest.mark.parametrize(
    ("end", "stopped"),
    [
        ("", None),
        ("sys.exit('no good')", "failed (memory limit 256 MiB): no good"),
        ("bytearray(2**30)", "failed (memory limit 256 MiB): MemoryError"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9 (memory limit 256 MiB): no message"),
    ],
)
def test_a_process_that_ends_early_leaves_what_it_had_and_the_reason(end, stopped, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD.replace("{end}", end))
    found = store.ask([str(script)], "npr", memory=256 << 20, seconds=120)
    assert found["parts"] == {"cpu-x86 fp32": {}}
    assert found.get("stopped") == stopped


def test_a_process_that_does_not_end_is_stopped(tmp_path):
    script = tmp_path / "child.py"
    script.write_text("import time; time.sleep(600)")
    found = store.ask([str(script)], "npr", memory=256 << 20, seconds=0.5)
    assert (found["parts"], found["stopped"]) == ({}, "not done after 0 minutes")


def test_only_what_has_changed_is_measured(tmp_path, monkeypatch):
    asked = []

    def ask(command, name, *, memory, seconds):
        asked.append((name, memory, seconds))
        return measured(name)

    monkeypatch.setattr(store, "ask", ask)
    results = ["--results", str(tmp_path / "zoo.json"), "--memory", "3", "--minutes", "2"]
    for arguments in (["edge32", "npr"], ["edge32", "npr"], ["npr", "--again"]):
        zoo.main([*arguments, *results])
    assert asked == [(name, 3 << 30, 120.0) for name in ("edge32", "npr", "npr")]


def test_an_unknown_detector_is_refused_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        zoo.main(["ram-nett"])
    assert "no detector is called 'ram-nett'; did you mean 'ram-net'" in capsys.readouterr().err


COMPILED = {
    "compiler": "TensorRT-RTX 1.0", "seconds": 0.51, "weights_bytes": 2e6, "activation_bytes": 1e6, "scratch_bytes": 0,
    "int8_convolutions": 5, "convolutions": 6, "int8_products": 1, "products": 1,
    "kernels_in": {"Int8": 6, "Half": 2, "Float": 1},
}  # fmt: skip
PARTS = {
    "cpu-x86 fp32": {"parity": 2e-7},
    "cpu-x86 int8": {"mean_parity": 0.0123, "integer_layers": 6, "layers": 7},
    "rtx-3090 fp16": {"refused": "casts are not taken"},
    "rtx-3090 int8": {"mean_parity": 0.02, "compiled": COMPILED},
    "pruned": {"macs_left": 0.694, "left_alone": {"head": "the output", "conv1": "of 6 channels 75% may go, 8 at a time"}},
    "pruned rtx-3090 int8": {"compiled": COMPILED},
}


def test_the_scoreboard_has_a_line_of_figures_and_a_footnote_for_each_refusal():
    text = documents.catalogue({"edge32": measured("edge32", parts=PARTS), "npr": measured("npr", stopped="killed")})
    figures = "1,234 | 8.2 | 32x32 | 2e-07 | 0.012 | 6 of 7 | 0.020 | 5 of 6, 1 of 1 | 3 | 0.69 | 5 of 6, 1 of 1"
    assert f"| [edge32](#edge32) | {figures} |\n" in text
    assert "- edge32, rtx-3090 fp16: casts are not taken\n" in text
    assert "- npr: killed\n" in text
    assert "- pruning leaves alone: of 6 channels 75% may go, 8 at a time\n" in text


def test_every_detector_has_its_section_measured_or_not():
    text = documents.catalogue({})
    assert [line[4:] for line in text.splitlines() if line.startswith("### ")] == list(models.DETECTORS)
    assert "- size: 1,437,761 parameters, 1,717.2 MMACs\n" in text
    assert "[cifake-student](../train/cifake-student.toml)" in text


def test_the_compiled_graphs_have_a_row_a_precision():
    lines = documents.compiled({"edge32": measured("edge32", parts=PARTS)}).splitlines()
    assert lines[2] == "| edge32 | 32x32 | int8 | 5 of 6 | 1 of 1 | 6 / 2 / 1 | 2.0 | 1.0 | 0.0 | 0.5 |"
    assert "- edge32 in fp16: casts are not taken" in lines
    assert documents.compiled({}) == ""


def test_published_figures_come_from_the_recipes_of_a_detector():
    found = {each.name: each.published for name in models.DETECTORS for each in documents.recipes(name)}
    assert any(found.values())


@pytest.mark.slow
@pytest.mark.skipif(not compiler.available(), reason="TensorRT-RTX is not installed")
def test_a_small_detector_goes_the_whole_way_in_a_process_of_its_own(tmp_path):
    zoo.main(["edge32", "--results", str(tmp_path / "zoo.json"), "--memory", "8"])
    found = json.loads((tmp_path / "zoo.json").read_text())["rows"][0]
    assert "stopped" not in found
    assert {what: "refused" in part for what, part in found["parts"].items()} == dict.fromkeys(
        ("cpu-x86 fp32", "cpu-x86 int8", "rtx-3090 fp32", "rtx-3090 fp16", "rtx-3090 int8", "pruned",
         "pruned cpu-x86 fp32", "pruned rtx-3090 fp32", "pruned rtx-3090 int8"), False
    )  # fmt: skip
    assert found["parts"]["cpu-x86 int8"]["integer_layers"] == 6
    assert found["parts"]["pruned"]["macs_left"] <= 0.7
    assert found["parts"]["pruned rtx-3090 int8"]["compiled"]["int8_convolutions"] == 6
