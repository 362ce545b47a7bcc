"""The graphs of an artifact in the making: one for whole images, or an encoder of patches and an aggregator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgedet.artifact import Artifact, Graph, Role
from edgedet.runtime.base import Options, Runtime
from edgedet.runtime.onnxruntime import OnnxRuntime, PatchRuntime
from edgedet.target import Precision, Target

FILES: Mapping[Role, str] = {"whole": "model.onnx", "encoder": "encoder.onnx", "aggregator": "aggregator.onnx"}


@dataclass(frozen=True)
class Graphs:
    """`model` takes pixels: it is the whole, or the encoder when there is an `aggregator`, which stays in FP32."""

    model: onnx.ModelProto
    aggregator: onnx.ModelProto | None = None

    @classmethod
    def load(cls, artifact: Artifact) -> Graphs:
        """Those of an ONNX artifact.

        Raises:
            ArtifactError: it has others, or none.
        """
        if not artifact.is_patchwise:
            return cls(onnx.load(artifact.graph))
        return cls(onnx.load(artifact.graph_of("encoder")), onnx.load(artifact.graph_of("aggregator")))

    @property
    def by_role(self) -> dict[Role, onnx.ModelProto]:
        """The one that takes pixels first."""
        if self.aggregator is None:
            return {"whole": self.model}
        return {"encoder": self.model, "aggregator": self.aggregator}

    @property
    def patch(self) -> int | None:
        """The side of the patches that the encoder takes, in pixels; None of a whole."""
        return int(_shape(self.model)[1]) if self.aggregator is not None else None

    def save(self, folder: Path) -> None:
        """Write each as a file of its own."""
        for role, model in self.by_role.items():
            onnx.save(model, folder / FILES[role])

    def opened(self, folder: Path, options: Options) -> Runtime:
        """Saved in `folder` and loaded from there, as on a device with ONNX Runtime."""
        self.save(folder)
        if self.patch is None:
            return OnnxRuntime(folder / FILES["whole"], options)
        return PatchRuntime(folder / FILES["encoder"], folder / FILES["aggregator"], self.patch, options)

    def described(self, precision: Precision, target: Target) -> tuple[Graph, ...]:
        """As a manifest lists them; `precision` is that of the one that takes pixels."""
        return tuple(
            Graph(
                file=FILES[role],
                role=role,
                inputs={model.graph.input[0].name: _shape(model)},
                outputs=[output.name for output in model.graph.output],
                opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
                precision="fp32" if role == "aggregator" else precision,
                target=target.name,
            )
            for role, model in self.by_role.items()
        )


def _shape(model: onnx.ModelProto) -> list[int | str]:
    """Of the input; a side of any length by its name."""
    return [side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
