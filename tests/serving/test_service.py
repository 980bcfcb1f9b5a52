"""The service as people start it: a process of its own, asked over HTTP."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import anyio
import httpx
import polars as pl
import pyarrow as pa
import pytest
from fastapi import FastAPI

from pipeline.serving.batcher import Batcher, FullError
from pipeline.serving.command import GRACE_SECONDS, _bound
from pipeline.serving.scorer import Scorer
from pipeline.serving.service import Limits, application
from tests.command import ENVIRONMENT, LAKESTORM

KEYS = ("time_hour", "carrier", "flight", "origin", "dest")


def started(scored: Path) -> tuple[subprocess.Popen[str], str]:
    """A service that runs, and its address."""
    process = subprocess.Popen(
        [*LAKESTORM, "serve", "flights@champion", "--lake", str(scored), "--port", "0"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if " at http://127.0.0.1:" in line:
            return process, line.rstrip().rpartition(" ")[2]
    raise AssertionError("".join(seen))


def ended(process: subprocess.Popen[str]) -> None:
    """Waits for a service that got SIGTERM, and asserts that it ended without a trace."""
    assert process.stderr is not None
    with process.stderr:
        rest = process.stderr.read()
    assert process.wait(30) in (0, -signal.SIGTERM), rest
    assert "Traceback" not in rest


@pytest.fixture(scope="module")
def address(scored: Path) -> Iterator[str]:
    """A running service, which ends by SIGTERM while it has requests, and answers them all."""
    process, address = started(scored)
    yield address
    rows = httpx.get(f"{address}/schema").json()["fields"]
    body = {"rows": [{field["name"]: None for field in rows}] * 2_000}
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(httpx.post, f"{address}/score", json=body) for _ in range(8)]
        wait(asked, return_when=FIRST_COMPLETED)
        process.send_signal(signal.SIGTERM)
        answers = [each.exception() or each.result().status_code for each in asked]
    # One that had not reached the service yet is refused a connection; none is cut off.
    assert {str(each) for each in answers} <= {"200", "[Errno 111] Connection refused"}
    assert answers.count(200) >= 1
    ended(process)


@pytest.fixture(scope="module")
def rows(scored: Path, scorer: Scorer) -> list[dict[str, Any]]:
    names = [*scorer.given.names, *(key for key in KEYS if key not in scorer.given.names)]
    frame = pl.read_delta(str(scored / "clean")).select(names).head(60)
    return [{**row, "time_hour": row["time_hour"].isoformat()} for row in frame.to_dicts()]


def test_it_answers_what_the_scorer_says(
    address: str, scored: Path, scorer: Scorer, rows: list[dict[str, Any]]
) -> None:
    found = httpx.post(f"{address}/score", json={"rows": rows})
    assert found.status_code == 200, found.text
    said = found.json()["predictions"]
    there = pl.read_delta(str(scored / "predictions"))
    wanted = {
        (r["flight"], r["time_hour"].isoformat(), r["carrier"]): r["score"]
        for r in there.to_dicts()
    }
    assert [row["score"] for row in said] == pytest.approx(
        [wanted[(row["flight"], row["time_hour"], row["carrier"])] for row in rows], abs=1e-6
    )
    assert said[0]["model_name"] == "flights"
    assert said[0]["spec_hash"] == scorer.bundle.facts.spec_hash


def test_many_at_once_get_their_own_answers(address: str, rows: list[dict[str, Any]]) -> None:
    whole = httpx.post(f"{address}/score", json={"rows": rows}).json()["predictions"]
    with httpx.Client() as client, ThreadPoolExecutor(16) as pool:
        answers = pool.map(
            lambda row: client.post(f"{address}/score", json={"rows": [row]}).json(), rows
        )
        alone = [answer["predictions"][0]["score"] for answer in answers]
    assert alone == pytest.approx([row["score"] for row in whole], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"rows": [{"distance": 3}]}, 422, "row 0, field year: is missing"),
        ({"rows": 3}, 422, "field rows: is no list of objects"),
        ([], 422, "field rows: is no list of objects"),
        ("far", 422, "row 0, field distance: is 'far'"),
        ("text", 422, "body: is no JSON"),
        ({"distance": True}, 422, "row 0, field distance: is True"),
        ({"month": 10**400}, 422, "row 0, field month: is 1000"),
        ({"time_hour": [[1]]}, 422, "row 0, field time_hour: is list"),
        ({"time_hour": {"a": 1}}, 422, "row 0, field time_hour: is dict"),
        ({"time_hour": 2**70}, 422, "field time_hour: cannot be read"),
        ({"carrier": "\ud800"}, 422, "row 0, field carrier: is '\\ud800'"),
    ],
)
def test_bad_input_names_the_field(
    address: str, rows: list[dict[str, Any]], change: Any, status: int, told: str
) -> None:
    body: dict[str, Any] = {"json": change}
    if change == "far":
        body = {"json": {"rows": [{**rows[0], "distance": "far"}]}}
    elif change == "text":
        body = {"content": b"{\xff"}
    elif isinstance(change, dict) and "rows" not in change:
        body = {"content": json.dumps({"rows": [{**rows[0], **change}]})}
    found = httpx.post(f"{address}/score", **body)
    assert (found.status_code, told in found.json()["error"]) == (status, True), found.text
    assert "Traceback" not in found.text


def test_pages_tell_the_schema_and_the_measures(address: str, scorer: Scorer) -> None:
    health = httpx.get(f"{address}/health").json()
    assert health == {"status": "ok", "model": "flights", "version": scorer.version}
    schema = httpx.get(f"{address}/schema").json()
    assert [field["name"] for field in schema["fields"]] == scorer.given.names
    assert schema["keys"] == ["time_hour", "flight"]
    page = httpx.get(address).text
    assert "<code>distance</code><td>double" in page
    assert "http://" not in page
    assert "https://" not in page
    told = httpx.get(f"{address}/metrics").text
    assert 'lakestorm_requests_total{status="200"}' in told
    assert "lakestorm_request_seconds_bucket" in told
    assert httpx.get(f"{address}/docs").status_code == 404


def asked(app: FastAPI, path: str, **body: Any) -> httpx.Response:
    """What an application answers in this process: to POST with a body, else to GET."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request("POST" if body else "GET", path, **body)

    return anyio.run(ask)


def test_too_much_is_refused(scorer: Scorer, rows: list[dict[str, Any]]) -> None:
    small = application(scorer, Limits(rows_per_request=2, bytes_per_request=10_000))
    assert asked(small, "/score", json={"rows": rows[:2]}).status_code == 200
    many = asked(small, "/score", json={"rows": rows[:3]})
    assert (many.status_code, "has 3 rows, over 2" in many.json()["error"]) == (413, True)
    large = asked(small, "/score", content=b" " * 10_001)
    assert (large.status_code, "longer than 10000" in large.json()["error"]) == (413, True)
    assert asked(small, "/score", json={"rows": []}).json() == {"predictions": []}
    full = application(scorer, Limits(waiting_rows=1))
    found = asked(full, "/score", json={"rows": rows[:2]})
    assert (found.status_code, "has 0 rows waiting" in found.json()["error"]) == (503, True)


def test_bodies_of_all_requests_together_are_bounded(
    scorer: Scorer, rows: list[dict[str, Any]]
) -> None:
    small = application(scorer, Limits(bytes_at_once=10_000))
    full = asked(small, "/score", content=b" " * 10_001)
    assert (full.status_code, "holds 10001 bytes" in full.json()["error"]) == (503, True)
    # What was refused is not held any more.
    assert asked(small, "/score", json={"rows": rows[:2]}).status_code == 200


def test_a_row_without_a_key_leaves_the_others_theirs(
    scorer: Scorer, rows: list[dict[str, Any]]
) -> None:
    keyless = {name: value for name, value in rows[1].items() if name != "time_hour"}
    found = asked(application(scorer), "/score", json={"rows": [rows[0], keyless]})
    keys = [row["time_hour"] for row in found.json()["predictions"]]
    assert keys == [rows[0]["time_hour"], None]


def test_a_fault_of_the_service_is_counted_and_not_told(
    scorer: Scorer,
    rows: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: pa.Table) -> pa.Table:
        raise RuntimeError("inner workings")

    monkeypatch.setattr(scorer, "score_table", broken)
    app = application(scorer)
    found = asked(app, "/score", json={"rows": rows[:1]})
    assert (found.status_code, "inner workings" in found.text) == (500, False)
    assert "inner workings" in caplog.text
    assert 'lakestorm_requests_total{status="500"} 1.0' in asked(app, "/metrics").text


def test_a_request_that_waits_too_long_is_not_scored(
    scorer: Scorer, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered with 503, and those after it are scored as ever."""
    first, go, scored = threading.Event(), threading.Event(), scorer.score_table
    seen: list[int] = []

    def slow(table: pa.Table) -> pa.Table:
        seen.append(table.num_rows)
        first.set()
        go.wait()
        return scored(table)

    monkeypatch.setattr(scorer, "score_table", slow)
    app = application(scorer, Limits(seconds=0.3))

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            late = [await client.post("/score", json={"rows": rows[:n]}) for n in (1, 2)]
            go.set()
            after = await client.post("/score", json={"rows": rows[:3]})
            return [each.status_code for each in (*late, after)]

    assert anyio.run(ask) == [503, 503, 200]
    assert seen == [1, 3]


def test_an_answer_is_not_held_back() -> None:
    """Connections inherit it: else each answer on a connection that stays takes 40 ms more."""
    with (
        _bound("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.long
def test_an_unfinished_request_does_not_keep_the_service(scored: Path) -> None:
    process, address = started(scored)
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port or 0)) as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(GRACE_SECONDS + 30) in (0, -signal.SIGTERM)
    assert process.stderr is not None
    process.stderr.close()


def test_names_from_data_are_escaped(scorer: Scorer) -> None:
    odd = Scorer(scorer.bundle, "<script>alert(1)</script>", 1)
    page = asked(application(odd), "/").text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_requests_queue_up_into_batches() -> None:
    """While one batch is scored, others queue up, and make the next one together."""
    sizes: list[int] = []
    first, go = threading.Event(), threading.Event()

    def score(table: pa.Table) -> pa.Table:
        sizes.append(table.num_rows)
        first.set()
        go.wait()
        return table

    batcher = Batcher(score, rows_per_batch=5, waiting_rows=9)
    futures = [batcher.submit(pa.table({"n": [0]}))]
    first.wait()
    futures += [batcher.submit(pa.table({"n": [n, n]})) for n in (1, 2, 3)]
    assert batcher.waiting == 6
    with pytest.raises(FullError, match="has 6 rows waiting"):
        batcher.submit(pa.table({"n": [9] * 4}))
    go.set()
    found = [future.result()["n"].to_pylist() for future in futures]
    batcher.close()
    assert found == [[0], [1, 1], [2, 2], [3, 3]]
    assert sizes == [1, 4, 2]


def test_a_request_that_fails_fails_alone() -> None:
    first, go = threading.Event(), threading.Event()

    def score(table: pa.Table) -> pa.Table:
        first.set()
        go.wait()
        if 7 in table["n"].to_pylist():
            raise ValueError("seven")
        return table

    batcher = Batcher(score, rows_per_batch=100, waiting_rows=100)
    futures = [batcher.submit(pa.table({"n": [n]})) for n in (1, 7, 2)]
    go.set()
    assert futures[0].result()["n"].to_pylist() == [1]
    with pytest.raises(ValueError, match="seven"):
        futures[1].result()
    assert futures[2].result()["n"].to_pylist() == [2]
    batcher.close()
