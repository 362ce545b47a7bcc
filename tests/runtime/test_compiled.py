import shutil

import numpy as np
import pytest

from edgedet import Detector
from edgedet.errors import RuntimeUnavailable

torch = pytest.importorskip("torch")
pytest.importorskip("edgedet.models")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: apt-get install g++")
def test_the_compiled_network_gives_the_same_logits(checkpoint):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with Detector.load(checkpoint, runtime="torch", threads=1) as eager:
        expected = eager.logits(pixels[:1])
    with Detector.load(checkpoint, runtime="torch-compile", threads=1) as compiled:
        np.testing.assert_allclose(compiled.logits(pixels[:1]), expected, atol=1e-4)
        assert compiled.runtime.describe()["runtime"] == "torch-compile"


def test_a_network_that_cannot_be_compiled_says_so_on_one_line(checkpoint, monkeypatch):
    def broken(model):
        def call(*inputs):
            raise RuntimeError("no compiler\nwas found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeUnavailable, match=r"torch\.compile fails here: RuntimeError: no compiler was found"):
        Detector.load(checkpoint, runtime="torch-compile", threads=1)
    assert torch.get_num_threads() == before
