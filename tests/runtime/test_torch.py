import numpy as np
import pytest

from edgedet import Detector

torch = pytest.importorskip("torch")
models = pytest.importorskip("edgedet.models")


def test_a_checkpoint_gives_its_networks_logits(checkpoint):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = models.build(checkpoint)(torch.from_numpy(pixels)).numpy()
    with Detector.load(checkpoint, threads=1, batch_size=2) as detector:
        np.testing.assert_allclose(detector.logits(pixels), expected, atol=1e-5)
        predictions = detector.predict(pixels)
        about = detector.runtime.describe()
    assert [prediction.logit for prediction in predictions] == pytest.approx(expected.tolist(), abs=1e-5)
    assert (about["runtime"], about["threads"]) == ("torch", 1)


def test_memory_mapped_pixels_are_read_without_being_touched(checkpoint, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    with Detector.load(checkpoint, threads=1) as detector:
        np.testing.assert_array_equal(detector.logits(mapped), detector.logits(pixels))


def test_a_closed_detector_gives_back_the_threads_that_training_had(checkpoint):
    before = torch.get_num_threads()
    with Detector.load(checkpoint, threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_each_of_several_runs_on_its_own_threads_whichever_was_loaded_last(checkpoint):
    before, pixels = torch.get_num_threads(), np.zeros((1, 32, 32, 3), np.uint8)
    first, second = (Detector.load(checkpoint, threads=threads) for threads in (before + 1, before + 2))
    for detector, threads in ((first, before + 1), (second, before + 2), (first, before + 1)):
        detector.logits(pixels)
        assert torch.get_num_threads() == threads == detector.runtime.describe()["threads"]
    first.close()
    first.close()
    second.logits(pixels)
    second.close()
    assert torch.get_num_threads() == before
