"""Networks of random weights for what does not depend on weights, such as latency; their rows say so.

ResNet-50 at 224 pixels, FP32 and INT8, is the line that every benchmark carries, beside its published figures. Graphs are made
once and kept in the cache folder. :func:`untrained` makes such a checkpoint of any detector.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from edgedet import artifact as artifacts
from edgedet import models
from edgedet import target as targets
from edgedet.artifact import GOLDEN, WEIGHTS, Artifact, Calibration, DetectorSpec, Golden, Manifest, tool_versions
from edgedet.data.index import Index, Row
from edgedet.data.simulate import golden_images
from edgedet.data.store import cache_root
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run
from edgedet.models import IMAGENET_MEAN, IMAGENET_STD, structure
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.target import Precision

SPEC = DetectorSpec(name="resnet50")
PREPROCESS = Preprocess(height=224, width=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_SEED = 0
_ANY = ParityGate()  # random weights have no verdicts to keep
_ALL_FAKE = Calibration(bias=100.0)  # nor any that rounding should turn


def anchors(target: str = "host") -> list[Artifact]:
    """The FP32 and the INT8 graph of ResNet-50 for `target`."""
    return graphs(SPEC, PREPROCESS, target)


def graphs(spec: DetectorSpec, preprocess: Preprocess, target: str = "host") -> list[Artifact]:
    """The FP32 and the INT8 graph of any detector for `target`, made now when the cache has none for these versions.

    Raises:
        ModelError: no such detector. QuantizeError: nothing of it can be quantized.
    """
    root = cache_root() / "anchor" / _key(spec, preprocess, target)
    for precision in ("fp32", "int8"):
        if not (root / f"{spec.name}-{precision}").is_dir():
            _make(root, spec, preprocess, target)
    return [Artifact.load(root / f"{spec.name}-{precision}") for precision in ("fp32", "int8")]


def _key(spec: DetectorSpec, preprocess: Preprocess, target: str) -> str:
    what = [msgspec.to_builtins(each) for each in (spec, preprocess, targets.resolve(target))]
    parts = [tool_versions("torch", "timm", "onnx"), *what]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


def _make(root: Path, spec: DetectorSpec, preprocess: Preprocess, target: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        checkpoint = untrained(Path(folder) / "checkpoint", spec, preprocess)
        data = as_ranges(Path(folder))
        wanted: list[tuple[Precision, ParityGate | None, Index | None]] = [("fp32", None, None), ("int8", _ANY, data)]
        for precision, parity, index in wanted:
            out = root / f"{spec.name}-{precision}"
            if not out.is_dir():
                config = ExportConfig(precision=precision, target=target, parity=parity, gates=())
                run(config, checkpoint, index, out, assessed=False)


def untrained(
    out: Path,
    spec: DetectorSpec,
    preprocess: Preprocess,
    *,
    golden: int = 16,
    change: Callable[[PixelModel], object] | None = None,
) -> Artifact:
    """A checkpoint of seeded random weights, its BatchNorm statistics those of the golden photographs, so that ranges are real.

    golden: how many of the photographs it keeps as golden inputs.
    change: what is done to the network first, such as pruning.

    Raises:
        ArtifactError: `out` exists.
        ModelError: no such detector.
    """
    torch.manual_seed(_SEED)
    model = PixelModel(models.create(spec), preprocess)
    images = golden_images()
    pixels = np.stack([preprocess(image) for image in images])
    models.classifier_of(model.net, spec.name).reset_parameters()  # timm gives one class weights of up to 1
    if change is not None:
        change(model)
    with torch.no_grad():
        _settle(model, torch.from_numpy(pixels))
        logits = model.eval()(torch.from_numpy(pixels[:golden])).numpy()
    with artifacts.writing(out) as draft:
        save_file({name: tensor.contiguous() for name, tensor in model.net.state_dict().items()}, draft.path / WEIGHTS)
        Golden(tuple(images[:golden]), pixels[:golden], logits, logits).save(draft.path / GOLDEN)
        draft.manifest = Manifest(
            kind="checkpoint",
            stage="anchor",
            detector=spec,
            structure=structure.difference(model.net, models.rebuild(spec, {})),
            preprocess=preprocess,
            calibration=_ALL_FAKE,
            seed=_SEED,
            notes=("untrained: for latency only",),
            tools=tool_versions("torch", "timm"),
        )
    return Artifact.load(out)


def _settle(model: nn.Module, pixels: torch.Tensor) -> None:
    """Give every BatchNorm the statistics of `pixels`, in place, and every block a part in the output.

    One that sees a single value an image keeps its own: a batch is too few of them, and it would blow up what they differ by.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(_forget_single_values) for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, not a running one
        if norm.affine and not norm.weight.any():
            nn.init.ones_(norm.weight)  # timm starts the last one of a residual block at zero: a block without output
    model.train()(pixels)
    for hook in hooks:
        hook.remove()


def _forget_single_values(norm: nn.BatchNorm1d | nn.BatchNorm2d, given: tuple[torch.Tensor], _: torch.Tensor) -> None:
    if given[0][0, 0].numel() == 1:
        norm.reset_running_stats()


def as_ranges(folder: Path) -> Index:
    """The golden photographs as files in `folder`, the ranges split of a data set."""
    rows = []
    for number, image in enumerate(golden_images()):
        name = f"{number:02}.img"
        (folder / name).write_bytes(image)
        rows.append(Row(path=name, label=0, split="ranges", sha256=hashlib.sha256(image).hexdigest()))
    return Index(folder, tuple(rows))
