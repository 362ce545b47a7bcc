"""PyTorch on a checkpoint: what the full-precision figures come from, before there is a graph (needs torch).

`torch` and `edgedet.models` are imported when a checkpoint is loaded, not before.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np

from edgedet.artifact import Artifact
from edgedet.errors import RuntimeUnavailable
from edgedet.preprocess import Pixels
from edgedet.runtime.base import LOGIT, Options, Outputs

R = TypeVar("R", bound="TorchRuntime")


class TorchRuntime:
    """A rebuilt network in evaluation mode, on the first CUDA device when there is one.

    PyTorch's number of threads is that of the process: each run sets its own, and the last runtime that is closed gives back
    what was set before the first.
    """

    name = "torch"
    _open: ClassVar[int] = 0
    _threads_before: ClassVar[int] = 0

    def __init__(self, artifact: Artifact, options: Options) -> None:
        import torch

        from edgedet import models

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = models.build(artifact).eval().to(self._device)
        self._torch, self._threads = torch, options.threads
        if not TorchRuntime._open:
            TorchRuntime._threads_before = torch.get_num_threads()
        TorchRuntime._open += 1
        torch.set_num_threads(options.threads)

    def run(self, pixels_u8_nhwc: Pixels) -> Outputs:
        """The logits, float32 (B,)."""
        if self._torch.get_num_threads() != self._threads:
            self._torch.set_num_threads(self._threads)
        # A read-only array (a memory map) cannot be shared with torch.
        shared = pixels_u8_nhwc if pixels_u8_nhwc.flags.writeable else pixels_u8_nhwc.copy()
        with self._torch.inference_mode():
            logits = self._model(self._torch.from_numpy(shared).to(self._device))
        return {LOGIT: np.asarray(logits.float().cpu().numpy(), dtype=np.float32)}

    def describe(self) -> dict[str, str | int | bool]:
        """The library's version, the device and the threads."""
        card = {"accelerator": self._torch.cuda.get_device_name(self._device)} if self._device.type == "cuda" else {}
        return {
            **card,
            "runtime": self.name,
            "version": str(self._torch.__version__),
            "device": str(self._device),
            "threads": self._threads,
        }

    def close(self) -> None:
        """Release the network; training that follows in this process has its threads back."""
        if self._model is None:
            return
        self._model = None
        TorchRuntime._open -= 1
        if not TorchRuntime._open:
            self._torch.set_num_threads(TorchRuntime._threads_before)


def load(artifact: Artifact, options: Options) -> TorchRuntime:
    """The checkpoint's network.

    Raises:
        RuntimeUnavailable: a package that the network needs is not installed.
    """
    return load_as(TorchRuntime, artifact, options)


def load_as(kind: type[R], artifact: Artifact, options: Options) -> R:
    """The checkpoint's network as a runtime of that `kind`.

    Raises:
        RuntimeUnavailable: a package that the network needs is not installed.
    """
    try:
        return kind(artifact, options)
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(
            f"{artifact.path}: needs {error.name}, which is not installed: pip install 'edgedet[train]'"
        ) from error
