"""Making artifacts: ``edgedet train | ensemble | distill | prune | qat | export``."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from edgedet import recipe
from edgedet.artifact import Artifact, check_free
from edgedet.cli.common import Data, GateFile, Json, Out, Overrides, Resume, data_of, gates_of, report_stage, show
from edgedet.errors import GateFailed, ParityError, UsageError
from edgedet.target import Precision

C = TypeVar("C")

Recipe = Annotated[str, typer.Argument(help="A recipe's name (`edgedet recipes` lists them) or the path of a TOML file.")]
From = Annotated[Path, typer.Option("--from", help="The checkpoint to start from.")]
TargetName = Annotated[str, typer.Option("--target", help="A target's name or TOML file, or NAME@RELEASE; host: this machine.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("train")(train)
    app.command("ensemble")(ensemble)
    app.command("distill")(distill)
    app.command("prune")(prune)
    app.command("qat")(qat)
    app.command("export")(export)


def train(
    name: Recipe,
    out: Out,
    overrides: Overrides = None,
    parent: Annotated[Path | None, typer.Option("--from", help="A checkpoint of that detector to go on from.")] = None,
    data: Data = None,
    resume: Resume = False,
    json: Json = None,
) -> None:
    """Train a detector in full precision. Under torchrun (`torchrun -m edgedet train ...`) it is distributed."""
    check_free(out)
    from edgedet.training.stage import TrainRecipe, run

    config = _recipe("train", name, TrainRecipe, overrides)
    before = Artifact.load(parent) if parent else None
    report_stage(run(config, before, data_of(data), out, resume=resume), json)


def ensemble(
    members: Annotated[list[Path], typer.Argument(help="Two trained checkpoints or more.")],
    out: Out,
    data: Data = None,
    json: Json = None,
) -> None:
    """Several trained detectors as one: the mean of their logits, a teacher that is better than each."""
    check_free(out)
    from edgedet.training.ensemble import run

    report_stage(run(_loaded(members), data_of(data), out), json)


def distill(
    name: Recipe,
    teacher: Annotated[list[Path], typer.Option("--teacher", help="The checkpoint to learn from; several: their mean.")],
    out: Out,
    overrides: Overrides = None,
    data: Data = None,
    resume: Resume = False,
    json: Json = None,
) -> None:
    """Train a student on the labels and on what the teacher says of each image."""
    check_free(out)
    from edgedet.compress.distill import DistillRecipe, run

    config = _recipe("distill", name, DistillRecipe, overrides)
    first, *others = _loaded(teacher)
    report_stage(run(config, first, data_of(data), out, others=others, resume=resume), json)


def prune(
    name: Recipe,
    parent: From,
    out: Out,
    overrides: Overrides = None,
    teacher: Annotated[list[Path] | None, typer.Option("--teacher", help="Who teaches between steps; else the parent.")] = None,
    data: Data = None,
    resume: Resume = False,
    json: Json = None,
) -> None:
    """Remove whole channels in steps, with distillation between them."""
    check_free(out)
    from edgedet.compress.cost import latency
    from edgedet.compress.prune import PruneRecipe, run

    config = _recipe("prune", name, PruneRecipe, overrides)
    cost = latency if config.cost == "latency" else None
    made = run(config, Artifact.load(parent), data_of(data), out, teachers=_loaded(teacher), cost=cost, resume=resume)
    report_stage(made, json)


def qat(
    name: Recipe,
    parent: From,
    out: Out,
    overrides: Overrides = None,
    target: TargetName = "host",
    teacher: Annotated[list[Path] | None, typer.Option("--teacher", help="Whose answers it learns; else the parent's.")] = None,
    data: Data = None,
    resume: Resume = False,
    json: Json = None,
) -> None:
    """Train a detector's INT8 graph with fake quantization, and write it: for what INT8 after training costs too much."""
    check_free(out)
    from edgedet.compress.qat import QatRecipe, run

    config = _recipe("qat", name, QatRecipe, overrides)
    made = run(config, Artifact.load(parent), data_of(data), out, target=target, teachers=_loaded(teacher), resume=resume)
    report_stage(made, json)


def export(
    artifact: Annotated[Path, typer.Argument(help="The checkpoint to export, or with --engine the ONNX artifact.")],
    out: Out,
    overrides: Overrides = None,
    target: TargetName = "host",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights and activations; needs --data for the ranges.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision; needs --data for the range check.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Full precision, the default.")] = False,
    ranges: Annotated[str | None, typer.Option(help="INT8: auto tries minmax, percentile, mse and entropy.")] = None,
    bias_correction: Annotated[str | None, typer.Option(help="INT8: true, false, or auto: if it helps.")] = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="INT8: what it harms most stays in float, see mixed.*")] = False,
    maps: Annotated[bool, typer.Option("--maps", help="The graph gives its heat-maps as well, for `edgedet explain`.")] = False,
    triton: Annotated[bool, typer.Option("--triton", help="A Triton model repository of an ONNX artifact.")] = False,
    engine: Annotated[bool, typer.Option("--engine", help="TensorRT's engine of an ONNX artifact, for this device.")] = False,
    data: Data = None,
    gate: GateFile = None,
    json: Json = None,
) -> None:
    """Write a graph for a device: ONNX with normalisation inside, quantized if asked, checked against the checkpoint.

    With --engine, on the device: TensorRT builds from the exported graph, whose precision and target it keeps.
    With --triton: the exported graph as a model repository of NVIDIA's Triton Inference Server.
    """
    check_free(out)
    precision = _precision(int8=int8, fp16=fp16, fp32=fp32)
    quantization = _int8(precision, ranges, bias_correction, mixed=mixed)
    if gate and not data:
        raise UsageError("--gate needs --data: gates are tested on its validation split")
    gates = gates_of(gate) if gate else None
    if triton:
        if int8 or fp16 or fp32 or maps or engine or target != "host" or overrides or gate:
            raise UsageError("--triton takes an ONNX artifact as it is: leave every option but --out and --json out")
        _triton(Artifact.load(artifact), out, json)
        return
    if engine:
        if int8 or fp16 or fp32 or maps or target != "host" or overrides:
            kept = "--int8, --fp16, --fp32, --maps and --target"
            raise UsageError(f"--engine keeps the graph's precision, outputs and target: leave {kept} out")
        from edgedet.export import tensorrt

        built = tensorrt.EngineConfig(gates=gates)
        report_stage(tensorrt.run(built, Artifact.load(artifact), data_of(data) if data else None, out), json)
        return
    from edgedet.export.stage import ExportConfig, run

    given = [f"target={target}", f"precision={precision}", *quantization]
    given += ["maps=true"] if maps else []
    config = recipe.parse("", ExportConfig, source="edgedet export", overrides=[*given, *(overrides or ())])
    config = msgspec.structs.replace(config, gates=config.gates if gates is None else gates)
    index = data_of(data) if data or config.precision == "int8" else None
    options = ("--from", artifact, "--target", config.target, "--data", data, "--out", f"{out}-qat")
    with _naming_qat(config.precision, options):
        report_stage(run(config, Artifact.load(artifact), index, out), json)


def _loaded(paths: Sequence[Path] | None) -> list[Artifact]:
    return [Artifact.load(path) for path in paths or ()]


def _triton(artifact: Artifact, out: Path, json: str | None) -> None:
    from edgedet.export.triton import write

    folder = write(artifact, out)
    command = f"tritonserver --model-repository {shlex.quote(str(out))}"
    record = {"repository": str(out), "model": folder.name, "artifact": artifact.digest}
    show(f"{folder}: {command}", json=json, record=record)


@contextlib.contextmanager
def _naming_qat(precision: Precision, options: Sequence[object]) -> Iterator[None]:
    """To an INT8 graph that is refused, or does not hold its gates, add the command that trains it."""
    try:
        yield
    except (GateFailed, ParityError) as error:
        if precision != "int8":
            raise
        raise type(error)(f"{error}; to train it: edgedet qat int8-finetune {shlex.join(map(str, options))}") from error


def _recipe(command: str, name: str, into: type[C], overrides: Sequence[str] | None) -> C:
    """The recipe of that name, which must be one for `command`."""
    stage = recipe.load("train", name, dict).get("stage", command)
    if stage != command:
        raise UsageError(f"{name} is a recipe for `edgedet {stage}`, not for `edgedet {command}`: `edgedet recipes` lists them")
    return recipe.load("train", name, into, overrides or ())


def _int8(precision: Precision, ranges: str | None, bias_correction: str | None, *, mixed: bool) -> list[str]:
    """The options of INT8 as assignments."""
    options = {"ranges": ranges, "bias_correction": bias_correction, "mixed": "{}" if mixed else None}
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    if given and precision != "int8":
        raise UsageError("--ranges, --bias-correction and --mixed are options of --int8: add it, or leave them out")
    return given


def _precision(*, int8: bool, fp16: bool, fp32: bool) -> Precision:
    flags: dict[Precision, bool] = {"fp32": fp32, "fp16": fp16, "int8": int8}
    asked = [name for name, given in flags.items() if given]
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)} exclude each other: give one")
    return asked[0] if asked else "fp32"
