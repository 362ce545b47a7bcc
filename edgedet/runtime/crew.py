"""Many images on all cores: each thread decodes its own batch and runs it, and no thread waits for another.

With one pool for decoding and a runtime that spreads each call over all cores, both want every core at once, and the runtime's
threads wait for those that decode. A crew has one thread a core; each takes the next few images, decodes them, and runs them on
one thread of the runtime. All cores are busy to the end whatever decoding and the model take, so that the throughput comes near
1 / (1 / decode + 1 / model), which no order of the same work exceeds.

Thumbnails are decoded by one thread at a time: nearly all of that is Python's, whose lock they would hand back and forth; the
others run the model meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from edgedet.data.parallel import prefetch

T = TypeVar("T")
D = TypeVar("D")
R = TypeVar("R")

_SHARES = 4  # of the work a thread gets at least, so that they end at about the same time


def spread(
    decode: Callable[[T], D],
    run: Callable[[Iterator[D]], list[R]],
    items: Iterable[T],
    *,
    workers: int,
    size: int,
    one_decodes: bool,
) -> Iterator[R]:
    """What `run` makes of each `size` decoded items, one after the other, in the order of `items`.

    run: takes the decoded items of one batch and gives their results; it is called by several threads at once.
    one_decodes: no two threads decode at the same time; then a batch is decoded whole before it is run.
    """
    turn = threading.Lock()

    def work(batch: list[T]) -> list[R]:
        if not one_decodes:
            return run(map(decode, batch))
        with turn:
            decoded = [decode(item) for item in batch]
        return run(iter(decoded))

    with contextlib.closing(prefetch(work, batches(items, size), threads=workers, ahead=2 * workers)) as done:
        for results in done:
            yield from results


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of `size`, the last one shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


def batch_of(count: int | None, size: int, workers: int) -> int:
    """At most `size`, and of `count` items so few that each thread has several turns; None: their number is not known."""
    return size if count is None else max(1, min(size, count // (_SHARES * workers)))
