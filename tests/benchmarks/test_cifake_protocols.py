"""The protocols on images whose logit is known: a tenth of red minus blue."""

import json
import math

import cifake_protocols as protocols
import numpy as np
import pytest
from PIL import Image

from edgedet.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEDET_DATA", raising=False)


@pytest.fixture
def artifact(make_onnx_artifact):
    return make_onnx_artifact(weights=(0.1, 0.0, -0.1)).path


def paint(path, logit: float, mark: int = 0) -> None:
    """A plain image of that logit; `mark` makes its bytes its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (100 + round(10 * logit), mark, 100)).save(path)


def ask(artifact, tmp_path, *arguments: str) -> dict:
    protocols.main([str(artifact), *arguments, "--json", str(tmp_path / "out.json")])
    return json.loads((tmp_path / "out.json").read_text())["protocols"]


REALS, FAKES = (-6.0, -2.0, -1.0, -0.5, 0.0, 1.5), (-1.5, 0.5, 0.9, 3.0, 5.0, 8.0)


def test_every_threshold_has_the_figures_of_class_real(artifact, tmp_path, capsys):
    for mark, (real, fake) in enumerate(zip(REALS, FAKES, strict=True)):
        paint(tmp_path / f"cifake/test/REAL/{mark}.png", real, mark)
        paint(tmp_path / f"cifake/test/FAKE/{mark}.png", fake, mark)
        paint(tmp_path / f"cifake/train/REAL/{mark}.png", 9, mark)
    found = ask(artifact, tmp_path, "--sweep", str(tmp_path / "cifake"), "--published", "base")["sweep"]
    assert (found["n"], [row["threshold"] for row in found["rows"]]) == (12, [n / 10 for n in range(1, 10)])
    for row in found["rows"]:
        called = [[1 / (1 + math.exp(z)) >= row["threshold"] for z in logits] for logits in (REALS, FAKES)]
        right, wrong = sum(called[0]), sum(called[1])
        precision, recall = right / (right + wrong), right / 6
        expected = [(right + 6 - wrong) / 12, precision, recall, 2 * precision * recall / (precision + recall)]
        assert [row[name] for name in protocols.SWEPT] == pytest.approx([100 * value for value in expected], abs=0.01)
    shown = capsys.readouterr().out
    assert "(91.93)" in shown  # the source's accuracy at 0.4
    assert "cifar100: skipped: give --cifar100 its data" in shown


def test_another_data_set_has_a_line_for_guessing_and_counts_what_cannot_be_read(artifact, tmp_path, capsys):
    for mark, logit in enumerate((-1, -1, 1, -1)):
        paint(tmp_path / f"agiri/test/real/{mark}.png", logit, mark)
    for mark, logit in enumerate((1, -1)):
        paint(tmp_path / f"agiri/test/fake/{mark}.png", logit, 10 + mark)
    (tmp_path / "agiri/test/fake/broken.png").write_bytes(b"no image")
    (tmp_path / "agiri/train/fake").mkdir(parents=True)
    (tmp_path / "agiri/train/fake/broken.png").write_bytes(b"of no interest")
    # What the source's loader could not convert: an image with a palette and transparency.
    Image.new("P", (8, 8), 3).save(tmp_path / "agiri/test/fake/palette.png", transparency=0)
    found = ask(artifact, tmp_path, "--transfer", str(tmp_path / "agiri"))["transfer"]
    assert (found["counts"], found["left_out"]) == ({"real": 4, "fake": 3}, {"real": 0, "fake": 1})
    measured, guessed = found["measured"], found["majority"]
    # Black in the palette: red and blue are equal, the logit is 0, which is real.
    assert measured["recall_real"] == 75
    assert measured["recall_fake"] == pytest.approx(100 / 3, abs=0.01)
    assert measured["balanced_accuracy"] == pytest.approx((75 + 100 / 3) / 2, abs=0.01)
    assert (guessed["class"], guessed["balanced_accuracy"]) == ("real", 50)
    assert guessed["accuracy"] == pytest.approx(400 / 7, abs=0.01)
    shown = capsys.readouterr().out
    assert "all called real" in shown
    assert "0 real, 1 fake" in shown


@pytest.mark.parametrize("above", ["", "REAL/", "test/REAL/"])
def test_photographs_are_recalled_by_class(above, artifact, tmp_path, capsys):
    # "train" is a class here, and a split elsewhere.
    logits = {"oak_tree": (-1, -1), "maple_tree": (-1, 1), "train": (1, 1, -1, 1), "sea": (-1,)}
    for number, (name, values) in enumerate(logits.items()):
        for mark, logit in enumerate(values):
            paint(tmp_path / "photographs" / above / name / f"{mark}.png", logit, 20 * number + mark)
    found = ask(artifact, tmp_path, "--cifar100", str(tmp_path / "photographs"))["cifar100"]
    assert found["n"] == 9
    assert found["accuracy"] == pytest.approx(100 * 5 / 9, abs=0.01)
    assert found["fine"] == {"oak_tree": 100, "sea": 100, "maple_tree": 50, "train": 25}
    assert found["coarse"] == {"large natural outdoor scenes": 100, "trees": 75, "vehicles 1": 25}
    assert "worst coarse class" in capsys.readouterr().out


def test_the_class_can_stand_in_a_table(artifact, tmp_path):
    for mark, logit in enumerate((-1, 1)):
        paint(tmp_path / f"all/{mark}.png", logit, mark)
    (tmp_path / "all/index.csv").write_text("file,label,generator\n0.png,real,Sweet Pepper\n1.png,real,rose\n")
    found = ask(artifact, tmp_path, "--cifar100", str(tmp_path / "all"))["cifar100"]
    assert found["fine"] == {"sweet_pepper": 100, "rose": 0}


def test_what_is_no_class_or_no_photograph_is_refused(artifact, tmp_path):
    paint(tmp_path / "a/REAL/rosse/0.png", 0)
    with pytest.raises(DataError, match=r"of no class of CIFAR-100; did you mean 'rose'\?"):
        ask(artifact, tmp_path, "--cifar100", str(tmp_path / "a"))
    paint(tmp_path / "b/FAKE/rose.png", 0)
    with pytest.raises(DataError, match="expected photographs only, got 1 fakes"):
        ask(artifact, tmp_path, "--cifar100", str(tmp_path / "b"))


def test_without_data_every_protocol_says_what_it_wants(artifact, capsys):
    protocols.main([str(artifact), "--sweep"])
    assert capsys.readouterr().out.count("skipped: give --") == 3


def test_the_classes_are_twenty_times_five():
    classes = protocols.reference("cifar100_classes.json")["classes"]
    assert len(classes) == 20
    assert len({name for names in classes.values() for name in names}) == 100


def test_the_published_figures_agree_with_each_other():
    source = protocols.reference("cifake_protocols.json")
    rows = [row for name in ("base", "srm") for row in source["sweep"][name] if "f1_real" in row]
    for row in rows:
        # 10,000 of each class: accuracy and F1 follow from precision and recall.
        precision, recall = row["precision_real"] / 100, row["recall_real"] / 100
        assert row["f1_real"] == pytest.approx(200 * precision * recall / (precision + recall), abs=0.02)
        assert row["accuracy"] == pytest.approx(50 * (recall + 1 - recall * (1 - precision) / precision), abs=0.03)
    for row in source["transfer"].values():
        reals = np.interp(row["accuracy"], *zip(*sorted([(row["recall_fake"], 0), (row["recall_real"], 1)]), strict=True))
        assert reals == pytest.approx(0.59, abs=0.01)  # what the source's loader left was no longer half real
