"""A connection to a Ray cluster: one that is there, or one started on this machine; quiet, and ended with its block."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgedet.data.parallel import usable_cores
from edgedet.errors import RuntimeUnavailable
from edgedet.runtime import base

AUTO, LOCAL = "auto", "local"
"""Addresses: the cluster that this machine is part of, or else one on it alone; one on it alone."""

_ANSWERS = 5.0  # seconds that the machine behind an address may take to accept a connection

log = logging.getLogger("edgedet.runtime.connection")


@contextlib.contextmanager
def connected(address: str = AUTO) -> Iterator[None]:
    """A connection to the cluster at ``HOST:PORT`` (its head's), or as :data:`AUTO` and :data:`LOCAL` say; ended at the end.

    What a job runs in the cluster ends with the connection, and so does a cluster that was started for it.

    Raises:
        RuntimeUnavailable: Ray is not installed, or no cluster answers there.
    """
    for package in ("ray", "pyarrow"):
        if reason := base.missing(package):
            raise RuntimeUnavailable(f"a cluster needs Ray Data: {reason}")
    found = _resolved(address)
    ray = _quiet_ray(found)
    try:
        with _own_sigterm():
            _connect(ray, found)
        yield
    finally:
        ray.shutdown()


def last_line(error: Exception) -> str:
    """Of an error with a traceback in its text the last line, which says what it is."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__).strip()


def _resolved(address: str) -> str:
    """The address for Ray: :data:`LOCAL`, or ``HOST:PORT`` where something answers.

    Raises:
        RuntimeUnavailable: nothing does, or it is no address of a cluster's head.
    """
    if address == AUTO:
        # As `ray.init` documents it; asked for it itself, it waits a quarter of an hour for a cluster that is gone.
        address = os.environ.get("RAY_ADDRESS") or _current() or AUTO
    if address == AUTO:
        log.info("no Ray cluster here: one is started on this machine")
        return LOCAL
    if address != LOCAL and (reason := _silent(address)):
        raise RuntimeUnavailable(f"{address}: no Ray cluster answers there: {reason}")
    return address


def _current() -> str | None:
    """The cluster that this machine has joined last, if it is still there."""
    noted = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    address = noted.read_text().strip() if noted.is_file() else ""
    return address if address and not _silent(address) else None


def _silent(address: str) -> str:
    """Why nothing answers at ``HOST:PORT``; an empty string when something does.

    Raises:
        RuntimeUnavailable: it has another form.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise RuntimeUnavailable(f"--address must be {AUTO}, {LOCAL} or HOST:PORT of a cluster's head, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _quiet_ray(address: str) -> Any:
    """Ray, told before it is imported to send no report of its use, and to write nothing between the rows."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of its C++ half
    if address != LOCAL:  # at something else than a cluster it would try twenty times, 40 seconds each
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    import ray
    import ray.data

    logger = logging.getLogger("ray.data")  # writes to a file of the session as well, and goes on there
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, logging.StreamHandler)]
    return ray


def _connect(ray: Any, address: str) -> None:
    """Connect, or start a cluster here.

    Raises:
        RuntimeUnavailable: in Ray's words.
    """
    cores = usable_cores() if address == LOCAL else None
    try:
        with _no_stderr():
            ray.init(address, num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise RuntimeUnavailable(f"{address}: the Ray cluster cannot be used: {last_line(error)}") from error


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """What SIGTERM does here it does afterwards, although Ray puts something of its own there."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Nothing on stderr, not even from C++: Ray's core says there which level its log has. What fails is raised besides."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
