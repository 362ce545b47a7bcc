"""The load client against a real service with a tiny model; how long it takes is not looked at."""

import json
from pathlib import Path

import pytest
import serve

README = Path(serve.__file__).parent / "README.md"

pytest.importorskip("fastapi")


def test_a_mixed_and_a_lost_answer_are_seen():
    replies = [serve.Reply(0, 200, 1.0, 0.1), serve.Reply(1, 200, 1.0, 0.1), serve.Reply(0, 0, None, 0.1)]
    assert serve.judged(replies, [1.0, 2.0]) == {"right": 1, "mixed": 1, "lost": 1}


def test_a_service_answers_each_with_its_own_and_refuses_the_rest(make_onnx_artifact):
    found = serve.measured(make_onnx_artifact("mine"), connections=8, requests=300, seconds=0.5)
    assert found["answers"] == {"right": 300, "mixed": 0, "lost": 0}
    assert found["open_answers"]["mixed"] == found["open_answers"]["lost"] == 0
    assert set(found["open_statuses"]) <= {"200", "503"}
    assert {name: status // 100 for name, status in found["refusals"].items()} == dict.fromkeys(serve.refusals(), 4)
    assert found["after_refusals"]["mixed"] == found["after_refusals"]["lost"] == 0
    assert found["resident_bytes"]["at_the_end"] > 0
    text = serve.markdown(json.loads(serve.msgspec.json.encode(found)))
    assert "| status for 21 MB | 413 |" in text


@pytest.mark.skipif(not serve.RESULTS.is_file(), reason="benchmarks/results/serve.json was not measured")
def test_the_table_in_the_rules_is_drawn_from_the_results():
    drawn = serve.markdown(json.loads(serve.RESULTS.read_bytes()))
    assert f"{serve.BEGIN}\n{drawn}{serve.END}" in README.read_text(encoding="utf-8")
