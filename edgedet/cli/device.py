"""From here to the device: ``edgedet bundle | deploy | self-test``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from edgedet.artifact import Artifact, Figures, check_free
from edgedet.cli.common import Data, Json, data_of, show, table
from edgedet.errors import DeployError, UsageError

if TYPE_CHECKING:
    from edgedet.bench.power import Load
    from edgedet.export.selftest import SelfTest

Runtime = Annotated[str | None, typer.Option("--runtime", help="Instead of the target's: onnxruntime stands in for tensorrt.")]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="For each of latency, throughput and power.")]
PowerMode = Annotated[str | None, typer.Option("--power-mode", help="A mode of nvpmodel, by name; else it stays as it is.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("bundle")(bundle)
    app.command("deploy")(deploy)
    app.command("self-test")(self_test)


def bundle(
    artifact: Annotated[Path, typer.Argument(help="The exported artifact.")],
    target: Annotated[str, typer.Option("--target", help="The device that it was exported for.")],
    out: Annotated[Path, typer.Option("--out", help="The .tar.gz to write; it must not exist.")],
    data: Data = None,
    sample: Annotated[int, typer.Option(min=0, help="So many images of --data's validation split travel along.")] = 64,
    wheels: Annotated[
        Path | None, typer.Option(help="A folder of wheels to bring along, for a device without a package index.")
    ] = None,
    json: Json = None,
) -> None:
    """Pack what goes to a device: graph, golden inputs, this edgedet, installer and self-test."""
    from edgedet import target as targets
    from edgedet.export import pack

    check_free(out)
    if wheels is not None and not wheels.is_dir():
        raise UsageError(f"{wheels}: --wheels takes a folder of wheels")
    images = pack.sample_of(data_of(data), sample) if data and sample else None
    made = pack.write(Artifact.load(artifact), targets.resolve(target), out, sample=images, wheels=wheels)
    rows = [
        ("target", made.bundle.target.device),
        ("artifact", made.bundle.artifact[:16]),
        ("sample", f"{made.bundle.sample.n} images of {made.bundle.sample.split}" if made.bundle.sample else "none"),
        ("wheels", "all that it needs" if made.bundle.offline else "edgedet's own; the device takes the others from its index"),
        ("size", f"{out.stat().st_size / 1e6:,.1f} MB"),
        ("sha256", made.digest),
    ]
    show(table(str(out), ("", ""), rows), json=json, record={"path": str(out), "sha256": made.digest, "bundle": made.bundle})


def deploy(
    archive: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `edgedet bundle` wrote.")],
    host: Annotated[str, typer.Argument(metavar="USER@HOST", help="The device, as ssh takes it.")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The port of its sshd.")] = None,
    identity: Annotated[Path | None, typer.Option(help="The private key to log in with.")] = None,
    ssh_config: Annotated[Path | None, typer.Option(help="ssh's configuration, instead of the user's own.")] = None,
    folder: Annotated[str, typer.Option("--dir", help="Where to on the device, from the home folder on.")] = "edgedet",
    python: Annotated[str, typer.Option(help="The device's interpreter.")] = "python3",
    runtime: Runtime = None,
    seconds: Seconds = 5.0,
    power_mode: PowerMode = None,
    serve: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Leave a unit for systemd that serves there.")] = None,
    json: Json = None,
) -> None:
    """Copy a bundle to a device over ssh, install it there, test it, and bring the result home."""
    from edgedet.export.bundle import inspect
    from edgedet.export.deploy import Host
    from edgedet.export.deploy import deploy as run

    result = run(
        inspect(archive),
        Host(host, port, identity, ssh_config),
        folder=folder,
        runtime=runtime,
        python=python,
        seconds=seconds,
        power_mode=power_mode,
        serve=serve,
    )
    _report(f"{archive} on {host}", result, json)


def self_test(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where a bundle is installed.")],
    runtime: Runtime = None,
    seconds: Seconds = 5.0,
    power_mode: PowerMode = None,
    json: Json = None,
) -> None:
    """Prove an installed bundle on this machine: engine, parity, accuracy, latency, throughput, power."""
    from edgedet.export import selftest

    result = selftest.run(folder, runtime=runtime, seconds=seconds, power_mode=power_mode)
    _report(str(folder), result, json)


def _report(what: str, result: SelfTest, json: str | None) -> None:
    """The figures, then why it failed, if it did.

    Raises:
        DeployError: the self-test did not pass.
    """
    rows = [("device", result.device.name), ("runtime", _runtime(result))]
    rows += [("power mode", result.device.power_mode)] if result.device.power_mode else []
    rows += _agreement("parity", result.parity) + _agreement("sample", result.sample)
    rows += _speed(result)
    rows += [_power(load) for load in result.power.loads] if result.power else []
    shown: list[RenderableType] = [table(f"{what}: measured {result.date[:10]}", ("", ""), rows)]
    show(*shown, *(f"note: {note}" for note in result.notes), json=json, record=result)
    if result.failed is not None:
        raise DeployError(f"{what}: the self-test failed: {result.failed}")


def _runtime(result: SelfTest) -> str:
    version = result.described.get("version", "")
    stood_in = "" if result.runtime == result.intended else f", standing in for {result.intended}"
    return f"{result.runtime} {version}{stood_in}".strip()


def _agreement(name: str, figures: Figures | None) -> list[tuple[str, str]]:
    """How far verdicts and logits are from the parent's (parity) or from the graph's where it was made (sample)."""
    if figures is None:
        return []
    from edgedet.evaluate.tables import percent

    found = figures if name == "parity" else figures["against_export"]
    rows = [(name, f"{found['flips']} of {found['n']} verdicts flip, logits move by {found['max_difference']:.2g} at most")]
    if name == "sample":
        rows.append(("balanced accuracy %", percent(figures["balanced_accuracy"])))
    return rows


def _speed(result: SelfTest) -> list[tuple[str, str]]:
    row = result.bench
    if row is None or row.latency is None:
        return []
    rows = [("latency p50 / p90 ms", f"{row.latency.p50_ms:.3g} / {row.latency.p90_ms:.3g}")]
    best = row.best_throughput
    return rows + ([("images/s", f"{best.images_per_second:,.0f} at batch {best.batch}")] if best else [])


def _power(load: Load) -> tuple[str, str]:
    drawn = f"{load.mw / 1000:.2f} W, {load.above_idle_mw / 1000:.2f} W above rest"
    return f"power at batch {load.batch}", f"{drawn}, {load.millijoules_per_image:.3g} mJ an image"
