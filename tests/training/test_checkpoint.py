import pytest
import torch
from full_disk import no_file_beyond

from edgedet.errors import TrainingError
from edgedet.training import checkpoint


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"config": "c", "step": 3, "weights": torch.arange(4.0).view(2, 2), "best": None}
    checkpoint.save(state, tmp_path)
    found = checkpoint.load(tmp_path)
    assert torch.equal(found.pop("weights"), state.pop("weights"))
    assert found == state
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.STATE]


def test_no_state_is_none(tmp_path):
    assert checkpoint.load(tmp_path) is None


def test_a_save_that_fails_leaves_the_last_one(tmp_path):
    checkpoint.save({"config": "first"}, tmp_path)
    error = r"state\.pt: cannot be written \(File too large\); free space"
    with no_file_beyond(10_000), pytest.raises(TrainingError, match=error):
        checkpoint.save({"config": "second", "weights": torch.rand(100_000)}, tmp_path)
    assert checkpoint.load(tmp_path) == {"config": "first"}
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.STATE]


@pytest.mark.parametrize("damage", [b"", b"not a state", b"PK\x03\x04"])
def test_damage_is_an_error_that_names_the_file(tmp_path, damage):
    (tmp_path / checkpoint.STATE).write_bytes(damage)
    with pytest.raises(TrainingError, match=f"{checkpoint.STATE}: is damaged"):
        checkpoint.load(tmp_path)


def test_code_in_a_state_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"config": Evil()}, tmp_path / checkpoint.STATE)
    with pytest.raises(TrainingError, match="is damaged"):
        checkpoint.load(tmp_path)


def test_some_other_file_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / checkpoint.STATE)
    with pytest.raises(TrainingError, match="is not the state of a run"):
        checkpoint.load(tmp_path)
