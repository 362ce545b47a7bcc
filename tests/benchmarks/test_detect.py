import json
from pathlib import Path

import detect
import numpy as np
import pytest

from edgedet.bench.statistics import Samples
from edgedet.preprocess import Preprocess
from edgedet.runtime.detector import Detector

README = Path(detect.__file__).parent / "README.md"


def rounds(*ms: float) -> Samples:
    return Samples((np.array(ms) * 1e6).astype(np.int64), np.arange(len(ms)))


def test_the_bound_is_both_times_together_with_the_faster_way_of_the_model():
    samples = {"decode": rounds(10, 20, 10), "model, spread": rounds(8, 9, 8), "model, in turns": rounds(5, 7, 6)}
    assert detect.bound(samples).round_medians().tolist() == [15e6, 27e6, 16e6]


@pytest.mark.parametrize("geometry", ["resize_squash", "crop_only"])
def test_every_way_is_measured_in_one_run(make_onnx_artifact, tmp_path, geometry):
    made = make_onnx_artifact("mine", preprocess=Preprocess(height=8, width=8, geometry=geometry))
    files = sorted(detect.mosaics(tmp_path / "images", 2, 1, count=2).iterdir())
    row = detect.measured(made, files, 2)
    assert set(row["images_per_second"]) == {
        "decode", "model, spread", "model, in turns", "detect", "without a crew", "plain loop",
    }  # fmt: skip
    assert (row["share"].rounds, row["gain"].rounds) == (2, 2)
    drawn = detect.markdown(json.loads(detect.msgspec.json.encode(detect._record([row]))))
    assert drawn.splitlines()[2].startswith("| mine | 2 of ")
    with Detector.load(made, threads=1) as detector:
        expected = [each.logit for each in detector.predict(files)]
    assert detect.plain_loop(made, files)() == pytest.approx(expected, abs=1e-4)  # or the comparison means nothing


@pytest.mark.skipif(not detect.RESULTS.is_file(), reason="benchmarks/results/detect.json was not measured")
def test_the_table_in_the_rules_is_drawn_from_the_results():
    drawn = detect.markdown(json.loads(detect.RESULTS.read_bytes()))
    assert f"{detect.BEGIN}\n{drawn}{detect.END}" in README.read_text(encoding="utf-8")
