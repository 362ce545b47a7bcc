import json
import logging

import pytest
from full_disk import no_file_beyond

from edgedet.errors import TrainingError
from edgedet.training.journal import LOG, METRICS, Journal


def journal(tmp_path, *, leads=True) -> Journal:
    return Journal(tmp_path, total=10, leads=leads, title="train")


def test_figures_are_lines_of_json_and_words_are_lines_of_the_log(tmp_path, capsys):
    with journal(tmp_path) as made:
        made.step(1, "loss 0.5")
        made.record(event="epoch", step=1, train_loss=0.5)
        made.say("epoch 1/1: done")
    line = json.loads((tmp_path / METRICS).read_text())
    assert line.pop("time") > 0
    assert line == {"event": "epoch", "step": 1, "train_loss": 0.5}
    assert (tmp_path / LOG).read_text().endswith(" epoch 1/1: done\n")
    captured = capsys.readouterr()
    assert "epoch 1/1: done" in captured.err
    assert captured.out == ""


def test_a_follower_says_nothing(tmp_path, capsys):
    with journal(tmp_path, leads=False) as made:
        made.record(event="epoch", step=1)
        made.say("hello")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_resuming_drops_later_lines_and_one_that_was_cut_short(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 5}\n{"step": 6}\n{"st')
    with journal(tmp_path) as made:
        made.forget_after(5)
    assert (tmp_path / METRICS).read_text() == '{"step": 1}\n{"step": 5}\n'


@pytest.mark.parametrize("name", [METRICS, LOG])
def test_a_full_disk_stops_the_run_with_one_error(tmp_path, capsys, name):
    error = rf"{name}: cannot be written \(File too large\); free space and run again with --resume"
    with pytest.raises(TrainingError, match=error), journal(tmp_path) as made, no_file_beyond(10):
        made.record(event="epoch", step=1) if name == METRICS else made.say("epoch 1/1: done")
    assert "Traceback" not in capsys.readouterr().err


def test_logging_is_left_as_it_was(tmp_path):
    logger = logging.getLogger("edgedet.training")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with journal(tmp_path):
        pass
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
