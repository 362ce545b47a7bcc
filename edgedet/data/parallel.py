"""The same work on many files, on all cores, in order, with a progress bar."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 16
SMALL_FILE = 6_000
"""Bytes. Pillow decodes outside Python's lock, so photographs gain from threads (2.2 times, 20 kB files, 2 cores); thumbnails,
where nearly all the time is Python's, lose by them (1.9 times slower, 1 kB files)."""


def threads_for(paths: Sequence[Path]) -> int:
    """How many threads decode these files fastest: one for thumbnails, one a core for photographs; judged by a sample."""
    sample = paths[:: max(1, len(paths) // 64)]
    sizes = [path.stat().st_size for path in sample if path.is_file()]
    if not sizes or sum(sizes) / len(sizes) < SMALL_FILE:
        return 1
    return usable_cores()


def usable_cores() -> int:
    """The cores that this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prefetch(make: Callable[[T], R], items: Iterable[T], *, threads: int = 2, ahead: int = 4) -> Generator[R, None, None]:
    """``map(make, items)`` in order, with at most `ahead` results made in advance by threads. Errors reach the caller."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    try:
        source = iter(items)
        waiting: deque[Future[R]] = deque(pool.submit(make, item) for item in islice(source, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ordered(work: Callable[[T], R], items: Sequence[T], *, threads: int) -> Iterator[R]:
    """``map(work, items)`` on `threads` threads, for items that take so little time that they are handed out in chunks."""
    if threads <= 1:
        yield from map(work, items)
        return
    chunks = (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    for done in prefetch(lambda chunk: [work(item) for item in chunk], chunks, threads=threads, ahead=4 * threads):
        yield from done


def tracked(items: Iterable[T], *, total: int, title: str, show: bool = True) -> Iterator[T]:
    """`items`, counted on a progress bar on stderr when that is a terminal and `show` is set."""
    if not show or not sys.stderr.isatty():
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What is printed to stdout meanwhile stays there: it may be a file.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        yield from bar.track(items, total=total, description=title)
