from __future__ import annotations

import random
import threading
import time
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
    items_in_flight: int = 8,
    planned: int | None = None,
):
    pool = OrderedPool(workers_count, len(items) if planned is None else planned, items_in_flight)
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


def test_no_more_items_are_in_flight_than_allowed() -> None:
    pool = start([{"number": number} for number in range(100)], items_in_flight=6)
    for _ in range(10):
        pool.get_results()
    time.sleep(0.1)
    counts = pool.diagnostics
    assert counts["items_ventilated"] == 16
    assert counts["items_delivered"] == 10
    assert len(drain(pool)) == 90


def test_a_workers_exception_comes_at_its_items_place_and_ends_all_threads() -> None:
    before = threading.active_count()
    pool = start([{"number": number} for number in range(50)], BrokenWorker)
    assert [pool.get_results() for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="item 5"):
        pool.get_results()
    assert threading.active_count() == before


def test_a_ventilator_that_ends_early_is_an_error_and_no_short_epoch() -> None:
    pool = start([{"number": number} for number in range(7)], planned=9)
    assert [pool.get_results() for _ in range(7)]
    with pytest.raises(StreamError, match="after 7 of 9 planned items"):
        pool.get_results()
    pool.stop()
    pool.join()


def test_stopping_wakes_a_ventilator_that_waits_for_room() -> None:
    pool = start([{"number": number} for number in range(1000)], items_in_flight=1)
    pool.get_results()
    pool.stop()
    pool.join()
    with pytest.raises(StreamError, match="stopped"):
        drain(pool)


def test_an_empty_plan_ends_at_once() -> None:
    assert drain(start([])) == []
