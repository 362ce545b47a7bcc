"""What is known of an artifact: ``manifest.json`` as typed structs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgedet.errors import ArtifactError
from edgedet.preprocess import Preprocess
from edgedet.recipe import Config

SCHEMA = 1
MANIFEST = "manifest.json"

Kind = Literal["checkpoint", "onnx", "engine"]
Role = Literal["whole", "encoder", "aggregator"]
Figures = dict[str, Any]
"""Measured figures as plain data: ``{"balanced_accuracy": {"value": .97, "low": .96, "high": .98, "n": 1000}, ...}``."""


class DetectorSpec(Config, frozen=True, kw_only=True):
    """Which builder made the network, and with what arguments.

    name: of `edgedet models`, or ``timm/<name>`` for any model of timm.
    arguments: of its builder, as `pretrained`.
    """

    name: str
    arguments: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """For people, as in ``edge32 {"width":24}``."""
        return f"{self.name} {msgspec.json.encode(self.arguments).decode()}"


class Calibration(Config, frozen=True, kw_only=True):
    """From logit to verdict: ``score = sigmoid((logit + bias) / temperature)``; fake when ``score >= threshold``.

    thresholds: by operating point (``half``, ``balanced``, ``fpr1``, ``fpr5``, ``worst_tier``), on the score.
    operating_point: the one that a verdict uses when nothing else is asked for.
    unsure: scores from the first up to the second are neither real nor fake for who would rather abstain; None: not measured.
    fitted_on: the digest of the validation index, None before any fit.
    views: the conditions under which its images were seen, all together.
    n: its images.
    """

    temperature: float = 1.0
    bias: float = 0.0
    thresholds: dict[str, float] = msgspec.field(default_factory=lambda: {"half": 0.5})
    operating_point: str = "half"
    unsure: tuple[float, float] | None = None
    fitted_on: str | None = None
    views: tuple[str, ...] = ()
    n: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}")
        if self.operating_point not in self.thresholds:
            raise ValueError(f"no threshold for operating point `{self.operating_point}`")

    def score(self, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Probabilities of fake, float64, of the shape of `logits`."""
        z = (np.asarray(logits, dtype=np.float64) + self.bias) / self.temperature
        return np.asarray(np.exp(-np.logaddexp(0.0, -z)), dtype=np.float64)

    @property
    def threshold(self) -> float:
        """The score from which a verdict is fake, at the default operating point."""
        return self.thresholds[self.operating_point]

    def is_unsure(self, score: float) -> bool | None:
        """Whether a score is in the band `unsure`; None where there is none."""
        return None if self.unsure is None else self.unsure[0] <= score < self.unsure[1]

    def verdict(self, logits: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """True where the verdict is fake."""
        return np.asarray(self.score(logits) >= self.threshold, dtype=np.bool_)


class Gate(Config, frozen=True, kw_only=True):
    """One condition that an artifact and all its descendants must hold; see `edgedet.evaluate.gates`.

    metric: a name of `edgedet.metrics`, or ``flip_rate`` (verdicts that differ from the other's, same image).
    against: the artifact that the figures are compared with, or ``absolute`` for the figure itself.
    max_drop: how much lower than the other's the metric may be (its upper confidence bound).
    max_value: the most the metric may be (``flip_rate``; its upper confidence bound).
    min_value: the least the metric may be (its lower confidence bound).
    scope: over all images, or for the generator that fares worst.
    condition: ``clean``, or the name of a degradation of `edgedet.evaluate.degrade`.
    """

    metric: Literal["balanced_accuracy", "auc", "tpr_at_fpr1", "tpr_at_fpr5", "flip_rate"]
    against: Literal["parent", "ancestor", "absolute"] = "ancestor"
    scope: Literal["overall", "worst_generator"] = "overall"
    condition: str = "clean"
    max_drop: float | None = None
    max_value: float | None = None
    min_value: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("max_drop", "max_value", "min_value") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a gate has one of `max_drop`, `max_value`, `min_value`, got {given or 'none'}")
        if (self.max_drop is not None) == (self.against == "absolute"):
            raise ValueError("`max_drop` compares with `parent` or `ancestor`; the others are for `absolute` figures")
        if self.metric == "flip_rate" and (self.max_value is None or self.against != "absolute"):
            raise ValueError('`flip_rate` takes `max_value` and `against = "absolute"`: it is a comparison by itself')


class Built(Config, frozen=True, kw_only=True):
    """The GPU and the TensorRT that built an engine, which runs with no others.

    device: the board's own name where it has one, for people; chip: what the driver calls the GPU.
    digest: sha256 of `chip`, `compute_capability`, `multiprocessors` and `tensorrt`.
    """

    device: str
    chip: str
    compute_capability: str
    multiprocessors: int
    tensorrt: str
    digest: str

    @classmethod
    def by(cls, *, device: str, chip: str, compute_capability: str, multiprocessors: int, tensorrt: str) -> Built:
        """With the digest of what is given."""
        identity = "\n".join((chip, compute_capability, str(multiprocessors), tensorrt))
        return cls(
            device=device,
            chip=chip,
            compute_capability=compute_capability,
            multiprocessors=multiprocessors,
            tensorrt=tensorrt,
            digest=hashlib.sha256(identity.encode()).hexdigest(),
        )

    def __str__(self) -> str:
        return f"{self.device} (compute capability {self.compute_capability}) with TensorRT {self.tensorrt}"


class Graph(Config, frozen=True, kw_only=True):
    """One ONNX graph or engine of the artifact; `built` is the engine's.

    role: ``whole`` takes images and gives logits. A detector that reads patches of images of any size has two graphs: the
        ``encoder`` takes a batch of patches and gives features (P, F), the ``aggregator`` takes those of one image (1, P, F)
        and gives its logit.
    """

    file: str
    role: Role = "whole"
    inputs: dict[str, list[int | str]]
    outputs: list[str]
    opset: int | None = None
    precision: str = "fp32"
    target: str | None = None
    built: Built | None = None


class Ancestor(Config, frozen=True, kw_only=True):
    """One line of the lineage."""

    digest: str
    stage: str
    kind: Kind
    name: str


class Manifest(Config, frozen=True, kw_only=True):
    """Everything that is known of an artifact; ``manifest.json``.

    teachers: whose answers it learned besides those of its parent, or whose mean it is; with none of them it is compared.
    """

    schema: int = SCHEMA
    kind: Kind
    stage: str
    detector: DetectorSpec
    structure: dict[str, list[int]] = {}
    preprocess: Preprocess
    labels: tuple[str, str] = ("real", "fake")
    calibration: Calibration = Calibration()
    gates: tuple[Gate, ...] = ()
    metrics: Figures = {}
    notes: tuple[str, ...] = ()
    seed: int | None = None
    config: dict[str, Any] = {}
    lineage: tuple[Ancestor, ...] = ()
    teachers: tuple[Ancestor, ...] = ()
    graphs: tuple[Graph, ...] = ()
    tools: dict[str, str] = {}
    files: dict[str, str] = {}

    @property
    def parent(self) -> Ancestor | None:
        """The artifact that this one was made from; the lineage runs from the first ancestor to the parent."""
        return self.lineage[-1] if self.lineage else None


def parse_manifest(raw: bytes, folder: Path) -> Manifest:
    """The manifest in `raw`, the bytes of the file in `folder`.

    Raises:
        ArtifactError: not JSON, of another schema, not valid, or naming files outside the folder.
    """
    try:
        schema = msgspec.json.decode(raw).get("schema")
    except (msgspec.DecodeError, AttributeError) as error:
        raise ArtifactError(f"{folder}: {MANIFEST} is not valid JSON: {error}") from error
    if schema != SCHEMA:
        raise ArtifactError(f"{folder}: manifest schema {schema!r}, this edgedet reads {SCHEMA}: use the edgedet that wrote it")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{folder}: {MANIFEST} is damaged: {error}") from error
    for name in manifest.files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{folder}: {MANIFEST} lists {name!r}, which is outside the artifact")
    return manifest
