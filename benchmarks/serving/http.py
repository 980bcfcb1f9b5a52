"""The service as people start it, asked by several clients at once on connections that stay."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 5.0
"""For each number of clients."""
WARM_UP = 20


@contextmanager
def service(model: str, lake: str, *options: str) -> Iterator[tuple[str, int]]:
    """A service in a process of its own: its address; it is ended by SIGTERM."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "pipeline", "serve", model),
            *("--lake", lake, "--port", "0", *options),
        ],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr or ():
            if found := re.search(r" at http://([\d.]+):(\d+)", line):
                yield found[1], int(found[2])
                break
        else:
            raise SystemExit("the service did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def one_row_each(
    address: tuple[str, int], rows: Sequence[dict[str, Any]], clients: int
) -> dict[str, float]:
    """Latency and throughput of clients that each send one row after the other.

    Args:
        address: Of the service.
        rows: As JSON has them; each client begins at another one.
        clients: How many ask at once.
    """
    bodies = [json.dumps({"rows": [row]}).encode() for row in rows]
    found: list[list[float]] = [[] for _ in range(clients)]
    together = threading.Barrier(clients + 1)

    def ask(client: int) -> None:
        connection = HTTPConnection(*address)
        for place in range(WARM_UP):
            _milliseconds(connection, bodies[place % len(bodies)])
        together.wait()
        ends = time.perf_counter() + SECONDS
        place = client * len(bodies) // clients
        while time.perf_counter() < ends:
            found[client].append(_milliseconds(connection, bodies[place % len(bodies)]))
            place += 1
        connection.close()

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    together.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    all_of_them = [each for one in found for each in one]
    return {
        "clients": clients,
        **_percentiles(all_of_them),
        "requests_per_s": round(len(all_of_them) / seconds),
    }


def many_rows(address: tuple[str, int], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """One client that sends all rows in one request, again and again."""
    body = json.dumps({"rows": list(rows)}).encode()
    connection = HTTPConnection(*address)
    found = [_milliseconds(connection, body) for _ in range(WARM_UP * 2)][WARM_UP:]
    connection.close()
    median = statistics.median(found)
    return {
        "rows": len(rows),
        **_percentiles(found),
        "rows_per_s": round(len(rows) * 1000 / median),
    }


def _milliseconds(connection: HTTPConnection, body: bytes) -> float:
    begun = time.perf_counter()
    connection.request("POST", "/score", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    taken = (time.perf_counter() - begun) * 1000
    if answer.status != 200:
        raise SystemExit(f"the service answered {answer.status}: {content[:300]!r}")
    return taken


def _percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {
        f"p{part}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * part // 100)], 2)
        for part in (50, 95, 99)
    }
