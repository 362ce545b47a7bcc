"""Deployment over OpenSSH's own client: copy the bundle, install it, test it, bring the result home.

Four connections, each with one purpose: can this device take it, the copy, the bundle's own installer (which runs the
self-test), the result. Nothing is installed by hand and nothing is left half-done: the copy lies beside the installations until
the installer has hashed it, and the installer renames a folder that is complete.
"""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgedet.errors import DeployError
from edgedet.export import selftest
from edgedet.export.bundle import Packed
from edgedet.export.selftest import SelfTest

log = logging.getLogger(__name__)

FOLDER = "edgedet"
"""Where to, below the home folder of whom ssh logs in as."""

_INCOMING = ".incoming.tar.gz"
_LOST = 255
"""What ssh itself ends with; anything else is the command's own."""

_OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4")
# In the words of OpenSSH: what to do about it.
_REASONS = (
    (r"Permission denied|Too many authentication failures", "it takes no key of ours: give one with --identity"),
    (
        r"Host key verification failed|HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known, or none is: connect once by hand with ssh and see whose it is",
    ),
    (r"Could not resolve|Name or service not known", "no such host: see that its name is right"),
    (
        r"Connection refused|No route to host|Network is unreachable|timed out during|Connection timed out",
        "it cannot be reached: see that it is on, that sshd runs there, and that --port is right",
    ),
)


@dataclass(frozen=True)
class Host:
    """Whom to log in to, as ssh takes it: ``user@host``; port, identity file and configuration when they are not the usual."""

    destination: str
    port: int | None = None
    identity: Path | None = None
    configuration: Path | None = None

    def command(self, remote: str) -> list[str]:
        """The ssh that runs `remote` in a POSIX shell there."""
        options = [item for option in _OPTIONS for item in ("-o", option)]
        options += ["-F", str(self.configuration)] if self.configuration else []
        options += ["-p", str(self.port)] if self.port else []
        options += ["-i", str(self.identity), "-o", "IdentitiesOnly=yes"] if self.identity else []
        return ["ssh", "-T", *options, "--", self.destination, f"sh -c {shlex.quote(remote)}"]


def deploy(
    packed: Packed,
    host: Host,
    *,
    folder: str = FOLDER,
    runtime: str | None = None,
    python: str = "python3",
    seconds: float = 5.0,
    power_mode: str | None = None,
    serve: str | None = None,
) -> SelfTest:
    """Install `packed` on `host` below `folder` and test it there; the result, also when the test failed.

    runtime: instead of the one that the bundle is for. python: the interpreter to build on.
    seconds, power_mode: of the self-test. serve: HOST:PORT to leave a unit for systemd for, with what serving takes.

    Raises:
        DeployError: the device cannot be reached, does not take the bundle, or the connection was cut. What was installed
            before is still there.
    """
    if shutil.which("ssh") is None:
        raise DeployError("there is no ssh here: install OpenSSH's client (apt-get install openssh-client)")
    if host.identity is not None and not host.identity.is_file():
        raise DeployError(f"{host.identity}: no identity file is there: give the private key with --identity")
    chosen = runtime or packed.bundle.target.runtime
    place = folder.removeprefix("~/").rstrip("/") or "/"
    common = ["--runtime", chosen, "--python", python]
    log.info("%s: is it a device for %s?", host.destination, packed.path.name)
    _installer(host, packed, [*common, "--check"])
    name = f"bundle-{packed.digest[:12]}-{chosen}{'-serve' if serve else ''}"
    tested = f"{place}/{name}/{selftest.RESULT}"
    _copy(host, packed, place, tested)
    serving = ["--serve", serve] if serve else []
    options = ["--dir", place, "--sha256", packed.digest, *common, *serving, "--", "--seconds", f"{seconds:g}"]
    options += ["--power-mode", power_mode] if power_mode else []
    failed = _installed(host, packed, [f"{place}/{_INCOMING}", *options], place)
    result = _fetched(host, tested, failed)
    if failed is not None and result.failed is None:
        raise failed
    return result


def _installer(host: Host, packed: Packed, options: Sequence[str], after: str = "") -> None:
    """Run the bundle's installer, which is sent along, and `after` when it has ended.

    Raises:
        DeployError: with the last thing that it said.
    """
    command = f"sh -s -- {shlex.join(options)}{after}"
    _run(host, command, stdin=packed.installer)


def _copy(host: Host, packed: Packed, place: str, tested: str) -> None:
    """Send the bundle; the result that an earlier deployment of it left goes, so that what is found there is of this one."""
    log.info("%s: copying %.1f MB", host.destination, packed.path.stat().st_size / 1e6)
    target = shlex.quote(f"{place}/{_INCOMING}")
    ready = f"mkdir -p {shlex.quote(place)} && rm -f {shlex.quote(tested)}"
    with packed.path.open("rb") as file:
        _run(host, f"{ready} && cat >{target} || {{ rm -f {target}; exit 1; }}", stdin=file)


def _installed(host: Host, packed: Packed, options: Sequence[str], place: str) -> DeployError | None:
    """Install and test; what went wrong, once the device could be asked for the result."""
    log.info("%s: installing and testing", host.destination)
    remove = f"; code=$?; rm -f {shlex.quote(f'{place}/{_INCOMING}')}; exit $code"
    try:
        _installer(host, packed, options, remove)
    except _Refused as error:
        return error
    return None


def _fetched(host: Host, path: str, failed: DeployError | None) -> SelfTest:
    """The result of the self-test, brought home; without one, what the installer said."""
    try:
        return selftest.read(_run(host, f"cat {shlex.quote(path)}"))
    except _Refused as error:
        raise failed or error from error


class _Refused(DeployError):
    """The command ran there and said no; the connection itself is fine."""


def _run(host: Host, remote: str, stdin: IO[bytes] | bytes = b"") -> bytes:
    """What `remote` prints there; what it says on stderr is passed on line by line.

    Raises:
        DeployError: ssh could not connect or lost the connection. _Refused: the command failed.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        if isinstance(stdin, bytes):
            given.write(stdin)
            given.seek(0)
        source = given if isinstance(stdin, bytes) else stdin
        with subprocess.Popen(host.command(remote), stdin=source, stdout=printed, stderr=subprocess.PIPE) as process:
            said = _followed(process.stderr)
            code = process.wait()
        if code == 0:
            printed.seek(0)
            return printed.read()
    if code == _LOST or code < 0:
        raise DeployError(f"{host.destination}: {_explained(said)}")
    raise _Refused(f"{host.destination}: {said[-1] if said else f'ended with status {code} and without a word'}")


def _followed(stream: IO[bytes] | None) -> list[str]:
    """Every line that came, each logged when it came, without who says it."""
    lines: list[str] = []
    for raw in stream or ():
        line = " ".join(raw.decode("utf-8", "replace").split())
        line = re.sub(r"^(install\.sh|edgedet): ", "", line)
        if line:
            lines.append(line)
            log.info("  %s", line)
    return lines


def _explained(said: Sequence[str]) -> str:
    text = " ".join(said)
    for pattern, advice in _REASONS:
        if re.search(pattern, text):
            return f"{advice} ({said[-1]})"
    return f"the connection was lost ({said[-1] if said else 'ssh was stopped'}); nothing is half-installed: run it again"
