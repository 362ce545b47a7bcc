"""Results on disk: whole, and read back as they were."""

import pytest
from tiny_search import result

from edgedet.errors import ArtifactError
from edgedet.search import result as results
from edgedet.search.result import Failure


@pytest.mark.parametrize("record", [result("a", speedup=None), Failure(name="b", rung=1, reason="it does not compile")])
def test_what_was_saved_is_read_back(tmp_path, record):
    results.save(tmp_path / "deep" / "a.json", record)
    assert results.load(tmp_path / "deep" / "a.json") == record


def test_nothing_there_is_none(tmp_path):
    assert results.load(tmp_path / "a.json") is None


def test_something_else_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "a.json").write_text('{"result": {"name": 3}}')
    with pytest.raises(ArtifactError, match="remove it to make that candidate again"):
        results.load(tmp_path / "a.json")
