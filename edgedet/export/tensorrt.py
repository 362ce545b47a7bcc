"""The engine stage, on the device: TensorRT builds from an exported ONNX artifact, and what it built is proven against it.

Two builds of one network differ (NVIDIA/TensorRT#4730), and some are wrong at batch sizes above one only (#4853), so every
engine runs the golden inputs at every batch size before it is written. It runs where it was built, with the TensorRT of then.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgedet import artifact as artifacts
from edgedet.artifact import GOLDEN, Artifact, Built, Draft, Gate, Golden, Graph, Manifest
from edgedet.data.index import Index
from edgedet.data.store import cache_root, writing_file
from edgedet.errors import ArtifactError, ExportError, RuntimeUnavailable
from edgedet.evaluate.assess import assess, carry_over
from edgedet.export import parity
from edgedet.export.child import ask
from edgedet.export.compile import explain
from edgedet.export.parity import Parity, ParityGate
from edgedet.recipe import Config
from edgedet.runtime import gpu
from edgedet.runtime import tensorrt as runtime
from edgedet.runtime.base import LOGIT, Options
from edgedet.target import build_flags

log = logging.getLogger(__name__)

ENGINE = "model.engine"
_MIB = 1 << 20

Count = Annotated[int, msgspec.Meta(ge=1)]


class EngineConfig(Config, frozen=True, kw_only=True):
    """How to build an engine.

    batches: the least, the usual and the largest batch; the engine is tuned for the usual one. Larger ones run in parts.
    workspace_mb: the most scratch memory, in MiB, that a kernel may take.
    seconds: after which the build is stopped.
    parity: limits on the golden inputs; None is the precision's, `edgedet.export.parity.GATES`.
    gates: instead of those that the parent hands down.
    """

    batches: tuple[Count, Count, Count] = (1, 1, 16)
    workspace_mb: Count = 1024
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    parity: ParityGate | None = None
    gates: tuple[Gate, ...] | None = None

    def __post_init__(self) -> None:
        if list(self.batches) != sorted(self.batches):
            raise ValueError(f"`batches` are the least, the usual and the largest, got {self.batches}")


def run(config: EngineConfig, parent: Artifact, data: Index | None, out: Path, *, assessed: bool = True) -> Artifact:
    """Build the engine of `parent`, an ONNX artifact, for this device, and write it at `out`.

    With `data`, thresholds are fitted again on its validation split and the gates are measured.

    Raises:
        RuntimeUnavailable: no GPU or no TensorRT here that can build; one sentence says why.
        ExportError: TensorRT refuses the graph, crashes or takes too long; names the ONNX node where it says one.
        ParityError: the engine's logits on the golden inputs are too far from the parent's.
        ArtifactError: `out` exists, or `parent` is no ONNX artifact with one graph of a fixed size.
    """
    artifacts.check_free(out)
    graph = _graph_of(parent)
    here = gpu.probe()
    _require_version(here)
    with artifacts.writing(out) as draft:
        facts = _build(config, parent, graph, here, draft.path / ENGINE)
        draft.manifest = _manifest(config, parent, graph, here, facts)
        measured = _prove(draft, parent)
        measured.hold(config.parity or parity.GATES[graph.precision], f"the engine of {parent.path} on {here.device}")
        golden = parent.golden
        Golden(golden.images, golden.pixels, golden.logits, measured.logits).save(draft.path / GOLDEN)
        metrics = {**draft.manifest.metrics, "parity": measured.figures}
        draft.manifest = msgspec.structs.replace(draft.manifest, metrics=metrics)
        if data is not None and assessed:
            draft.manifest = assess(draft, data, parent=parent)
        else:
            draft.manifest = carry_over(draft, parent)
    return Artifact.load(out)


def _graph_of(parent: Artifact) -> Graph:
    parent.require("onnx")
    if len(parent.manifest.graphs) != 1:
        raise ArtifactError(f"{parent.path}: has {len(parent.manifest.graphs)} graphs, an engine is built from one")
    graph = parent.manifest.graphs[0]
    (shape,) = graph.inputs.values()
    if any(isinstance(side, str) for side in shape[1:]):
        raise ArtifactError(f"{parent.path}: height or width is open ({shape}), and an engine is built for one size")
    return graph


def _require_version(here: Built) -> None:
    try:
        build_flags(here.tensorrt)
    except ValueError as error:
        raise RuntimeUnavailable(f"{here.device}: {error}") from error


def _build(config: EngineConfig, parent: Artifact, graph: Graph, here: Built, engine: Path) -> dict[str, Any]:
    """What the child process tells of the engine that it wrote; the timing cache's digests before and after."""
    kept = _timing_file(here)
    before = _read_timing(kept)
    with tempfile.TemporaryDirectory() as folder:
        timing = Path(folder) / "timing"
        timing.write_bytes(before)
        (shape,) = graph.inputs.values()
        request: dict[str, Any] = {
            "path": str(parent.graph),
            "precision": graph.precision,
            "batches": config.batches,
            "size": shape[1:3],
            "workspace": config.workspace_mb * _MIB,
            "timing": str(timing),
            "engine": str(Path(folder) / ENGINE),
        }
        facts = ask("edgedet.export.tensorrt_child", request, about=parent.graph, seconds=config.seconds, does="build")
        if "refusal" in facts:
            raise ExportError(f"{parent.graph}: TensorRT {facts['version']} refuses the graph: {explain(facts['refusal'])}")
        shutil.move(request["engine"], engine)
        after = timing.read_bytes()
    _write_timing(kept, after)
    return {**facts, "timing_before": _sha256(before) if facts["timing_known"] else None, "timing_after": _sha256(after)}


def _prove(draft: Draft, parent: Artifact) -> Parity:
    """The golden inputs through the engine, at every batch size, against the parent's logits."""
    loaded = runtime.load(draft.preview(), Options(threads=1))
    try:
        golden = parent.golden
        return parity.measure(
            lambda batch: loaded.run(batch)[LOGIT], golden.pixels, golden.logits, parent.manifest.calibration
        )
    finally:
        loaded.close()


def _manifest(config: EngineConfig, parent: Artifact, graph: Graph, here: Built, facts: dict[str, Any]) -> Manifest:
    before = parent.manifest
    return msgspec.structs.replace(
        before,
        kind="engine",
        stage="export",
        gates=before.gates if config.gates is None else config.gates,
        metrics={"engine": _figures(config, here, facts)},
        notes=(*before.notes, *_notes(graph, facts)),
        config=msgspec.to_builtins(config),
        lineage=parent.lineage_for_child(),
        graphs=(msgspec.structs.replace(graph, file=ENGINE, built=here),),
        tools={**artifacts.tool_versions(), "tensorrt": here.tensorrt},
        files={},
    )


def _figures(config: EngineConfig, here: Built, facts: dict[str, Any]) -> dict[str, Any]:
    weights, activation, scratch = facts["memory"]
    return {
        "built_by": msgspec.to_builtins(here),
        "strongly_typed": facts["strongly_typed"],
        "flags": facts["flags"],
        "batches": list(config.batches),
        "workspace_mb": config.workspace_mb,
        "seconds": facts["seconds"],
        "engine_bytes": facts["engine_bytes"],
        "weights_bytes": weights,
        "activation_bytes": activation,
        "scratch_bytes": scratch,
        "timing_cache": {"before": facts["timing_before"], "after": facts["timing_after"]},
    }


def _notes(graph: Graph, facts: dict[str, Any]) -> tuple[str, ...]:
    if graph.precision == "fp32" or facts["half"] or not facts["strongly_typed"]:
        return ()
    return (
        f"TensorRT {facts['version']} takes the precision from the graph, and no FP16 is written into this one: what is not "
        "INT8 runs in FP32; `edgedet targets` lists the releases to export for",
    )


def _timing_file(here: Built) -> Path:
    """Timings are of use on the device and with the TensorRT that took them only, so the name is their digest."""
    return cache_root() / "tensorrt" / f"{here.digest}.timing"


def _read_timing(path: Path) -> bytes:
    """The timings of earlier builds; nothing when there are none, or when they are not what was written."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return b""
    if digest.decode("ascii", "replace") == _sha256(content):
        return content
    log.warning("%s is damaged: building without the timings in it", path)
    return b""


def _write_timing(path: Path, content: bytes) -> None:
    """Behind the line with its digest."""
    with writing_file(path) as file:
        file.write(_sha256(content).encode() + b"\n" + content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
