"""How a run is asked to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class Stop:
    """Whether a signal has asked the run to end, which it does after its step."""

    asked = False


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM set a flag instead of killing a step halfway; outside the main thread they are left alone."""
    stop = Stop()

    def ask(*_: object) -> None:
        stop.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
