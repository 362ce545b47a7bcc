"""A process that is asked to do something to a file, and every way in which it does not."""

from pathlib import Path

import pytest

from edgedet.errors import ExportError
from edgedet.export.child import ask

PROGRAM = """
import json, sys, time
request = json.loads(sys.argv[1])
exec(request["work"])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "asked_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "asked_program"


def test_the_answer_is_what_the_process_writes(module):
    work = 'json.dump({"twice": 2 * request["number"]}, open(request["answer"], "w"))'
    assert ask(module, {"work": work, "number": 21}, about=Path("m.onnx"), seconds=60) == {"twice": 42}


@pytest.mark.parametrize(
    ("work", "seconds", "message"),
    [
        ("import os; os.abort()", 60, r"^m\.onnx: the process that should build it crashed with SIGABRT: no message$"),
        ("sys.exit('full')", 60, r"^m\.onnx: the process that should build it gave up \(memory limit 8 MiB\): full$"),
        ("time.sleep(60)", 0.5, r"^m\.onnx: the process that should build it was not done after 0 seconds: stopped$"),
    ],
)
def test_a_process_that_does_not_finish_is_one_sentence(module, work, seconds, message):
    with pytest.raises(ExportError, match=message):
        ask(module, {"work": work, "memory": 8 << 20}, about=Path("m.onnx"), seconds=seconds, does="build")
