"""``edgedet report``: one file a form, and what is missing said on the terminal."""

import json

from command import assert_one_line


def test_a_folder_becomes_a_page_markdown_and_json(edgedet, make_onnx_artifact, tmp_path):
    made = make_onnx_artifact("folder/only")
    folder = made.path.parent
    files = {name: tmp_path / f"report.{name}" for name in ("html", "md", "json")}
    done = edgedet("report", folder, "--out", files["html"], "--markdown", files["md"], "--json", files["json"])
    assert done.code == 0, done.err
    assert "0 benchmarks, 1 artifacts" in done.out
    assert "not in it: no result lines: `edgedet bench" in done.out
    assert files["html"].read_text(encoding="utf-8").startswith("<!doctype html>")
    assert files["md"].read_text(encoding="utf-8").startswith("# folder\n")
    said = json.loads(files["json"].read_text(encoding="utf-8"))
    assert [each["digest"] for each in said["subjects"]] == [made.digest]


def test_a_folder_without_anything_is_one_line(edgedet, tmp_path):
    done = edgedet("report", tmp_path, "--out", tmp_path / "report.html")
    assert done.code == 1
    assert_one_line(done.err, "neither artifacts nor result lines")
    assert not (tmp_path / "report.html").exists()
