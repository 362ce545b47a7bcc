import shutil

import pytest

from edgedet.errors import BenchError
from edgedet.report.material import collect


def test_everything_below_a_folder_is_found_once(folder):
    shutil.copytree(folder / "line" / "child", folder / "copy")
    found = collect(folder)
    assert sorted(each.path.name for each in found.artifacts) == ["copy", "teacher"]
    assert {name: len(rows) for name, rows in found.results.items()} == {"cpu.jsonl": 4}
    assert [set(each.evaluations) for each in found.evaluations] == [
        {"clean", "jpeg-90", "jpeg-50", "web", "resize-0.5-bilinear"}
    ]
    assert [each.headline[:24] for each in found.audits] == ["audited: biased: file si"]
    assert [(each.name, each.scenario) for each in found.samples] == [
        ("child", "model"), ("teacher", "model"), ("child", "whole"), ("teacher", "whole"),
    ]  # fmt: skip
    assert found.unused == []


def test_what_cannot_be_used_is_said_and_not_shown(folder):
    with (folder / "line" / "child" / "model.onnx").open("ab") as file:
        file.write(b"x")
    (folder / "predictions.jsonl").write_text('{"image": "a.png", "score": 0.4}\n')
    (folder / "other.json").write_text('{"evaluations": {"clean": {"balanced_accuracy": 3}}, "artifact": "ab"}')
    (folder / "broken.json").write_bytes(b"\xff{")
    (folder / "arrays.npz").write_bytes(b"no zip")
    (folder / "notes.txt").write_text("not looked at")
    found = collect(folder)
    assert [each.path.name for each in found.artifacts] == ["teacher"]
    said = "\n".join(found.unused)
    for words in ("child: model.onnx has sha256", "predictions.jsonl:1", "other.json: neither", "broken.json", "arrays.npz"):
        assert words in said
    assert len(found.unused) == 5
    assert str(folder) not in said


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(BenchError, match="no such folder"):
        collect(tmp_path / "nothing")
