import threading
import time

import pytest

from edgedet.data.parallel import CHUNK, ordered, prefetch
from edgedet.errors import DataError


def test_prefetching_keeps_the_order():
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(prefetch(slow_first, range(10), threads=3, ahead=4)) == [number * number for number in range(10)]


def test_prefetching_makes_few_in_advance():
    made = []
    results = prefetch(lambda number: made.append(number) or number, range(100), ahead=3)
    next(results)
    time.sleep(0.05)
    assert len(made) <= 4
    results.close()


def test_errors_reach_the_one_who_takes_the_result():
    def fails(number: int) -> int:
        if number == 2:
            raise DataError("two")
        return number

    results = prefetch(fails, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="two"):
        next(results)


def test_threads_end_when_the_reader_stops():
    before = threading.active_count()
    results = prefetch(lambda number: number, range(100))
    next(results)
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, CHUNK, 10 * CHUNK + 1])
def test_small_work_is_done_in_order(threads, count):
    assert list(ordered(lambda number: -number, range(count), threads=threads)) == [-number for number in range(count)]
