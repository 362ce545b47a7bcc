import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, DetectorSpec, Golden, Graph, Manifest
from edgedet.bench import entry, power, reference, result, samples, stage, table
from edgedet.data.index import Index, Row
from edgedet.errors import BenchError
from edgedet.preprocess import Preprocess
from edgedet.runtime.onnxruntime import OnnxRuntime

ORT = ["onnxruntime"]
INTERVAL = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100, "reason": ""}
METRICS = {
    "balanced_accuracy": INTERVAL,
    "auc": {**INTERVAL, "value": 0.97},
    "splits": ["val"],
    "worst_generator": "up4",
    "generators": {"up2": {"balanced_accuracy": INTERVAL}, "up4": {"balanced_accuracy": {**INTERVAL, "value": 0.7}}},
}


@pytest.fixture
def data(tmp_path) -> Index:
    rows = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(Row(path=f"{number}.png", label=number % 2))
    return Index(tmp_path, tuple(rows))


@pytest.fixture
def run(data):
    """The stage, as short as it can be."""
    short = {"data": data, "runtime": "onnxruntime", "seconds": 0.04, "threads": 1, "batches": (1, 4)}
    return lambda *args, **more: stage.run(*args, **{**short, **more})


def checkpoint(path) -> Artifact:
    """Something that ONNX Runtime does not run."""
    with artifacts.writing(path) as draft:
        (draft.path / "weights.safetensors").write_bytes(b"weights")
        draft.manifest = Manifest(
            kind="checkpoint", stage="train", detector=DetectorSpec(name="resnet50"), preprocess=Preprocess()
        )
    return Artifact.load(path)


def test_artifacts_are_measured_side_by_side_and_recorded(make_onnx_artifact, run, tmp_path):
    teacher, student = make_onnx_artifact("teacher", metrics=METRICS), make_onnx_artifact("student", weights=(1, 0, 0))
    other = {"balanced_accuracy": INTERVAL, "splits": ["test"], "flips_against_ancestor": {**INTERVAL, "value": 0.01}}
    first, second = rows = run(
        [teacher, student], record=tmp_path / "out.jsonl", keep=tmp_path / "s.npz", metrics={student.digest: other}
    )
    assert [row.name for row in rows] == ["teacher", "student"]
    kept = {(each.name, each.scenario): each for each in samples.load(tmp_path / "s.npz")}
    assert {name for name, _ in kept} == {"teacher", "student"}
    assert kept["student", "whole"].samples.nanoseconds.size == second.end_to_end.n
    assert kept["teacher", "model"].digest == teacher.digest
    for row, given in zip(rows, (teacher, student), strict=True):
        assert (row.kind, row.weights, row.error, row.digest) == ("measured", "trained", None, given.digest)
        assert row.size_bytes == given.file("model.onnx").stat().st_size
        assert (row.runtime, row.threads, row.img_size, row.precision) == ("onnxruntime", 1, (8, 8), "fp32")
        assert row.latency.p50_ms > row.harness_ms > 0
        assert row.end_to_end.p50_ms > row.latency.p50_ms  # decoding a PNG takes longer than a graph of three weights
        assert row.end_to_end.p50_ms > row.preprocess.p50_ms > row.latency.p50_ms
        assert kept[row.name, "preprocess"].samples.nanoseconds.size == row.preprocess.n
        assert [(point.batch, point.threads) for point in row.throughput] == [(1, 1), (4, 1)]
        assert row.memory.peak_bytes > row.memory.base_bytes
        assert row.speedup.baseline == "teacher"
        assert row.speedup.low <= row.speedup.value <= row.speedup.high
        assert row.versions["onnxruntime"] == row.runtime_version
    assert first.speedup.value == 1.0
    assert (first.accuracy.balanced_accuracy.value, first.accuracy.split) == (0.9, "val")
    assert (first.accuracy.worst_generator, first.accuracy.worst_balanced_accuracy.value) == ("up4", 0.7)
    assert (second.accuracy.split, second.accuracy.auc, second.accuracy.flip_rate.value) == ("test", None, 0.01)
    assert result.load(tmp_path / "out.jsonl") == rows


def test_what_is_drawn_above_rest_is_in_the_row_where_it_can_be_told(make_onnx_artifact, run, monkeypatch):
    class Packages:
        name, scope = "rapl", "packages"
        idle = True

        def stream(self, stop):
            drawn, Packages.idle = (4000.0 if Packages.idle else 9000.0), False
            while not stop.wait(0.002):
                yield {"package-0": drawn}

    monkeypatch.setattr(stage, "_memory", lambda entry: None)
    monkeypatch.setattr(power, "_SETTLE", 0.0)
    monkeypatch.setattr(power, "find", Packages)
    (row,) = run([make_onnx_artifact("mine")], reference=None)
    assert (row.power.idle_mw, row.power_reason) == (4000, None)
    assert [load.batch for load in row.power.loads] == sorted({1, row.best_throughput.batch})
    assert all(load.above_idle_mw == 5000 for load in row.power.loads)
    assert row.best_load.images_per_joule == pytest.approx(row.best_load.images_per_second / 5)

    monkeypatch.setattr(power, "find", lambda: None)
    (row,) = run([make_onnx_artifact("again")], reference=None, batches=(1,))
    assert row.power is None
    assert row.power_reason.startswith("this machine has neither tegrastats")


def test_published_rows_stand_beside_the_anchor(make_onnx_artifact, run, monkeypatch):
    monkeypatch.setattr(stage, "_memory", lambda entry: None)  # measured above; a process each
    monkeypatch.setitem(reference._ARCHITECTURES, "tiny", "resnet50")
    square = Preprocess(height=224, width=224)
    anchor = [make_onnx_artifact(name, bias=bias, preprocess=square) for name, bias in (("fp32", 0), ("int8", 1))]
    rows = run([make_onnx_artifact("mine")], anchor=anchor, batches=(1,))
    assert [(row.name, row.kind, row.weights) for row in rows] == [
        ("mine", "measured", "trained"),
        ("fp32", "measured", "untrained"),
        ("int8", "measured", "untrained"),
        ("resnet50", "published", None),
    ]
    published = rows[-1]
    assert (published.latency, published.end_to_end, published.speedup, published.digest) == (None, None, None, None)
    assert published.best_throughput.images_per_second == 3729.86
    assert published.device.name == "NVIDIA GeForce RTX 3090"
    for row in rows[1:3]:
        assert row.share.value == row.best_throughput.images_per_second / 3729.86
        assert (row.share.model, row.share.img_size, row.share.device) == ("resnet50", 224, "NVIDIA GeForce RTX 3090")
    assert (rows[0].share, published.share) == (None, None)
    assert [row.speedup.baseline for row in rows[:3]] == ["mine", "fp32", "fp32"]
    assert rows[0].accuracy is None
    assert rows[0].notes == ("no published row of the NVIDIA GeForce RTX 3090 for resnet50 at 8x8 px",)


def test_on_the_reference_machine_nothing_published_stands_beside(make_onnx_artifact, run, monkeypatch):
    card = "NVIDIA GeForce RTX 3090"
    described = OnnxRuntime.describe
    monkeypatch.setattr(OnnxRuntime, "describe", lambda self: {**described(self), "accelerator": card})
    monkeypatch.setattr(stage, "_memory", lambda entry: None)
    monkeypatch.setitem(reference._ARCHITECTURES, "tiny", "resnet50")
    (row,) = run([make_onnx_artifact("mine", preprocess=Preprocess(height=224, width=224))], batches=(1,))
    assert (row.kind, row.accelerator, row.detector, row.share) == ("measured", card, "tiny", None)


def test_a_failure_is_a_row_with_its_reason(make_onnx_artifact, run, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_memory", lambda entry: None)
    broken = checkpoint(tmp_path / "broken")
    failed, good = run([broken, make_onnx_artifact("good")], runtime="onnxruntime", reference=None, batches=(1,))
    assert "the onnxruntime runtime runs onnx artifacts, this is a checkpoint" in failed.error
    assert (failed.latency, failed.throughput, failed.digest) == (None, (), broken.digest)
    assert good.error is None
    assert good.speedup is None  # the baseline fell out, and nothing takes its place

    (alone,) = run([broken], runtime="onnxruntime", reference=None)
    assert alone.error == failed.error


def test_the_best_thread_count_is_chosen_and_reported(make_onnx_artifact, data, monkeypatch):
    monkeypatch.setattr("edgedet.bench.scenarios.thread_candidates", lambda: (1, 2))
    (mine,) = entry.collect([make_onnx_artifact("mine")], [], ORT)
    mine.prepare([data.read(0)], threads="best")
    assert mine.error is None
    assert set(mine.threads_p50_ms) == {1, 2}
    assert mine.threads == min(mine.threads_p50_ms, key=mine.threads_p50_ms.__getitem__)
    assert mine.described["threads"] == mine.threads
    mine.close()


def test_a_detector_of_patches_says_how_many_it_was_timed_on(make_onnx_artifact, data):
    native = make_onnx_artifact("patches", preprocess=Preprocess(geometry="native", patch=8))
    (mine,) = entry.collect([native], [], ORT)
    mine.prepare([data.read(0)], threads=1)
    assert mine.notes == ["patches: 6 patches of 8x8 px an image, four for the peak memory"]
    assert mine.size == (20, 24)
    mine.close()
    (fixed,) = entry.collect([make_onnx_artifact("fixed")], [])
    assert fixed.size == (8, 8)


def test_the_batch_of_an_aggregator_is_not_the_detectors(tmp_path):
    graphs = (
        Graph(file="e.onnx", role="encoder", inputs={"pixels": ["patches", 8, 8, 3]}, outputs=["features"]),
        Graph(file="a.onnx", role="aggregator", inputs={"features": [1, "patches", 4]}, outputs=["logit"]),
    )
    manifest = Manifest(kind="onnx", stage="export", detector=DetectorSpec(name="tiny"), preprocess=Preprocess(), graphs=graphs)
    (two,) = entry.collect([Artifact(tmp_path / "two", manifest, "ab" * 32)], [])
    assert two.fixed_batch is None


def test_a_graph_with_a_fixed_batch_is_not_swept(tmp_path):
    graph = Graph(file="model.onnx", inputs={"pixels": [1, 8, 8, 3]}, outputs=["logit"])
    manifest = Manifest(
        kind="onnx", stage="export", detector=DetectorSpec(name="tiny"), preprocess=Preprocess(), graphs=(graph,)
    )
    (fixed,) = entry.collect([Artifact(tmp_path / "fixed", manifest, "ab" * 32)], [])
    assert fixed.fixed_batch == 1
    assert stage._sweep([fixed], 1.0, (1, 4)) == {}
    assert fixed.notes == ["fixed: its graph has a fixed batch of 1: no sweep"]


def test_images_that_cannot_be_read_are_counted(make_onnx_artifact, data):
    (mine,) = entry.collect([make_onnx_artifact("mine")], [], ORT)
    mine.prepare([b"no image", data.read(0), data.read(1)], threads=1)
    assert mine.notes == ["mine: 1 of 3 images cannot be read and were not timed"]
    assert [pixels.shape for pixels in mine.pixels] == [(1, 8, 8, 3)] * 2
    mine.close()
    (other,) = entry.collect([mine.artifact], [], ORT)
    other.prepare([b"no image"], threads=1)
    assert other.error == "mine: none of the 1 images can be read by its preprocessing"


def test_images_of_mixed_sizes_are_batched_by_repeating_one(make_onnx_artifact, tmp_path):
    (mine,) = entry.collect([make_onnx_artifact("mine", preprocess=Preprocess(geometry="native"))], [], ORT)
    images = []
    for side in (4, 6):
        Image.new("RGB", (side, side)).save(tmp_path / "image.png")
        images.append((tmp_path / "image.png").read_bytes())
    mine.prepare(images, threads=1)
    assert mine.batch(5)()["logit"].shape == (5,)
    mine.close()


def test_without_data_the_golden_images_are_timed(make_onnx_artifact, data, tmp_path):
    with pytest.raises(BenchError, match="give a data set with --data"):
        entry.sample_images(None, entry.collect([make_onnx_artifact("bare")], []))
    images, none = tuple(data.read(number) for number in range(3)), np.zeros(3, np.float32)
    with artifacts.writing(tmp_path / "golden") as draft:
        Golden(images, np.zeros((3, 8, 8, 3), np.uint8), none, none).save(draft.path / "golden.npz")
        draft.manifest = Manifest(kind="onnx", stage="export", detector=DetectorSpec(name="tiny"), preprocess=Preprocess())
    assert entry.sample_images(None, entry.collect([Artifact.load(tmp_path / "golden")], [])) == list(images)


def test_images_are_spread_over_a_large_index(data):
    many = Index(data.root, data.rows * 100)
    assert len(entry.sample_images(many, [])) == entry.IMAGES


def test_names_are_told_apart(make_onnx_artifact, tmp_path):
    (tmp_path / "other").mkdir()
    one, two = make_onnx_artifact("a"), make_onnx_artifact("b", bias=1)
    two.path.rename(tmp_path / "other" / "a")
    moved = Artifact.load(tmp_path / "other" / "a")
    assert [each.name for each in entry.collect([one, moved], [])] == ["a", f"a@{moved.digest[:8]}"]
    with pytest.raises(BenchError, match="was given twice"):
        entry.collect([one, one, one], [])


def test_a_wrong_name_is_refused_before_anything_is_measured(make_onnx_artifact, run):
    with pytest.raises(BenchError, match=r"no artifact to compare with is called 'teacher'; did you mean 'teachers'\?"):
        run([make_onnx_artifact("teachers")], baseline="teacher")
    with pytest.raises(BenchError, match="no published figures for 'rtx'"):
        run([make_onnx_artifact("mine")], reference="rtx")
    with pytest.raises(BenchError, match="give at least one artifact"):
        run([])


def test_an_artifact_has_a_row_on_each_runtime_for_its_kind(make_onnx_artifact, run, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(stage, "_memory", lambda entry: None)
    mine, kept = make_onnx_artifact("mine"), checkpoint(tmp_path / "kept")
    rows = run([mine, kept], runtime=["onnxruntime", "openvino"], reference=None, batches=(1,))
    assert [(row.name, row.runtime) for row in rows] == [
        ("mine, onnxruntime", "onnxruntime"), ("mine, openvino", "openvino"), ("kept", None),
    ]  # fmt: skip
    assert [row.speedup.baseline for row in rows[:2]] == ["mine, onnxruntime"] * 2
    assert rows[0].digest == rows[1].digest
    assert "runs onnx artifacts, this is a checkpoint" in rows[2].error


def test_an_artifact_given_twice_is_compared_with_itself(make_onnx_artifact, run, monkeypatch):
    monkeypatch.setattr(stage, "_memory", lambda entry: None)
    mine = make_onnx_artifact("mine")
    first, again = run([mine, mine], reference=None, batches=(1,))
    assert (first.digest, again.name) == (again.digest, f"mine@{mine.digest[:8]}")
    assert again.speedup.baseline == "mine"
    (said,) = [note for note in table.footnotes([first, again]) if "again" in note]
    assert said.startswith(f"{again.name} is mine again: {again.speedup.value:.3f} [")


def test_auto_is_measured_and_says_what_it_took(make_onnx_artifact, data):
    pytest.importorskip("openvino")
    (mine,) = entry.collect([make_onnx_artifact("mine")], [])
    mine.prepare([data.read(0)], threads=1)
    assert mine.error is None
    assert mine.chosen == mine.described["runtime"]
    assert mine.chosen in ("onnxruntime", "openvino")
    (said,) = mine.notes
    assert said.startswith(f"mine runs on {mine.chosen}: openvino is ")
    mine.close()


def test_parity_is_the_largest_difference_on_golden_images(make_onnx_artifact, run, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_memory", lambda entry: None)
    made = make_onnx_artifact("made", bias=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    red, _, blue = pixels.mean((1, 2)).T
    logits = (0.1 * red - 0.1 * blue + 0.5 + [0, 0.25, -0.125]).astype(np.float32)
    with artifacts.writing(tmp_path / "mine") as draft:
        (draft.path / "model.onnx").write_bytes(made.graph.read_bytes())
        Golden((), pixels, logits, logits).save(draft.path / "golden.npz")
        draft.manifest = replace(made.manifest, files={})
    (row,) = run([Artifact.load(tmp_path / "mine")], reference=None, batches=(1,))
    assert row.parity == pytest.approx(0.25, abs=1e-4)
