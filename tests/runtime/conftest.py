"""What the tests of runtimes share."""

import pytest

from edgedet import Artifact, Preprocess
from edgedet import artifact as artifacts
from edgedet.artifact import WEIGHTS, DetectorSpec, Manifest


@pytest.fixture
def checkpoint(tmp_path) -> Artifact:
    """A network of random weights."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgedet import models

    torch.manual_seed(0)
    spec = DetectorSpec(name="cifake-cnn")
    with artifacts.writing(tmp_path / "checkpoint") as draft:
        save_file(models.create(spec).state_dict(), draft.path / WEIGHTS)
        draft.manifest = Manifest(
            kind="checkpoint", stage="train", detector=spec, preprocess=Preprocess(height=32, width=32)
        )
    return Artifact.load(tmp_path / "checkpoint")
