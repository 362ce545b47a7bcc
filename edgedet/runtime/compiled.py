"""``torch.compile`` on a checkpoint, to be measured beside the other runtimes (needs torch and a C++ compiler)."""

from __future__ import annotations

import numpy as np

from edgedet.artifact import Artifact
from edgedet.errors import EdgedetError, RuntimeUnavailable
from edgedet.runtime.base import Options
from edgedet.runtime.torch import TorchRuntime, load_as


class CompiledRuntime(TorchRuntime):
    """The network through ``torch.compile``; the first call of each new batch size compiles, which takes seconds."""

    name = "torch-compile"

    def __init__(self, artifact: Artifact, options: Options) -> None:
        super().__init__(artifact, options)
        self._model = self._torch.compile(self._model)


def load(artifact: Artifact, options: Options) -> CompiledRuntime:
    """The checkpoint's network, compiled for one image.

    Raises:
        RuntimeUnavailable: a package or a compiler is missing, or PyTorch cannot compile this network; with its words.
    """
    runtime = load_as(CompiledRuntime, artifact, options)
    preprocess = artifact.manifest.preprocess
    try:
        runtime.run(np.full((1, preprocess.height, preprocess.width, 3), 128, np.uint8))
    except EdgedetError:
        raise
    except Exception as error:  # the compiler's errors have no common base
        runtime.close()
        reason = " ".join(str(error).split())[:200]
        raise RuntimeUnavailable(f"{artifact.path}: torch.compile fails here: {type(error).__name__}: {reason}") from error
    return runtime
