from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from petastorm.workers_pool import EmptyResultError
from petastorm.workers_pool.worker_base import WorkerBase

from pipeline.errors import StreamError
from pipeline.stream.pool import OrderedPool, PlanVentilator


class JitteryWorker(WorkerBase):
    """Publishes as many results as its item says, after a random time."""

    def process(self, number: int, results: int = 1) -> None:
        time.sleep(random.random() * 0.002)  # noqa: S311
        for part in range(results):
            self.publish_func((number, part))


class BrokenWorker(WorkerBase):
    def process(self, number: int) -> None:
        if number == 5:
            raise ValueError("item 5")
        self.publish_func(number)


def start(
    items: list[dict[str, int]],
    worker_class: type[WorkerBase] = JitteryWorker,
    workers_count: int = 4,
    windows: Sequence[int] | None = None,
    open_windows: int = 0,
):
    """A pool that reads `items`; without `windows` all of them belong to one that is open."""
    pool = OrderedPool(
        workers_count, [0] * len(items) if windows is None else windows, open_windows
    )
    pool.start(worker_class, None, PlanVentilator(pool.ventilate, items))
    return pool


def drain(pool: OrderedPool) -> list[Any]:
    results = []
    try:
        while True:
            results.append(pool.get_results())
    except EmptyResultError:
        return results
    finally:
        pool.stop()
        pool.join()


@pytest.mark.parametrize("workers_count", [1, 2, 4, 8])
def test_results_come_in_the_order_of_ventilation(workers_count: int) -> None:
    items = [{"number": number} for number in range(200)]
    assert drain(start(items, workers_count=workers_count)) == [(n, 0) for n in range(200)]


def test_an_item_may_have_no_result_or_several() -> None:
    items = [{"number": n, "results": n % 3} for n in range(30)]
    assert drain(start(items)) == [(n, part) for n in range(30) for part in range(n % 3)]


def test_items_start_only_when_their_window_is_open_or_workers_would_idle() -> None:
    items = [{"number": number} for number in range(100)]
    pool = start(items, workers_count=2, windows=[n // 10 for n in range(100)], open_windows=1)
    for delivered in range(1, 11):
        assert pool.get_results() == (delivered - 1, 0)
    wait_for(pool, lambda counts: counts["items_waiting"] == 10)
    assert pool.diagnostics["items_ventilated"] == 20  # windows 0 and 1, none of window 2
    for _ in range(8):
        pool.get_results()
    # 2 of window 1 are left: for 2 workers up to 4 may be in flight, whatever the window
    wait_for(pool, lambda counts: counts["items_ventilated"] == 22)
    pool.open_windows(9)
    assert len(drain(pool)) == 82


def wait_for(pool: OrderedPool, reached: Callable[[dict[str, int]], bool]) -> None:
    with pool._changed:
        assert pool._changed.wait_for(lambda: reached(pool.diagnostics), timeout=20)


def test_a_workers_exception_comes_at_its_items_place_and_ends_all_threads() -> None:
    before = threading.active_count()
    pool = start([{"number": number} for number in range(50)], BrokenWorker)
    assert [pool.get_results() for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="item 5"):
        pool.get_results()
    assert threading.active_count() == before


def test_a_ventilator_that_ends_early_is_an_error_and_no_short_epoch() -> None:
    pool = start([{"number": number} for number in range(7)], windows=[0] * 9)
    assert [pool.get_results() for _ in range(7)]
    with pytest.raises(StreamError, match="after 7 of 9 planned items"):
        pool.get_results()
    pool.stop()
    pool.join()


def test_stopping_wakes_a_ventilator_that_waits_for_room() -> None:
    pool = start([{"number": number} for number in range(1000)], windows=range(1000))
    pool.get_results()
    pool.stop()
    pool.join()
    with pytest.raises(StreamError, match="stopped"):
        drain(pool)


def test_an_empty_plan_ends_at_once() -> None:
    assert drain(start([])) == []
