from __future__ import annotations

import threading
import time

import pytest

import pipeline.stream.bridge  # noqa: F401 - before any test module imports Petastorm


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Every test of the stream must end with the threads it began with, soon after."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while left := stream_threads() - before:
        if time.monotonic() > deadline:
            pytest.fail(f"threads left: {left}")
        time.sleep(0.01)


def stream_threads() -> set[threading.Thread]:
    """Threads of Spark's driver live as long as the session; the stream's may not.

    A dummy stands for a thread that Python did not start, such as one of Arrow's that called Python
    once: it may be gone at any time.
    """
    started = (each for each in threading.enumerate() if not each.name.startswith("Dummy-"))
    return {thread for thread in started if not _is_sparks(thread)}


def _is_sparks(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return (getattr(target, "__module__", "") or "").startswith(("py4j", "pyspark", "socketserver"))
