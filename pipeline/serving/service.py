"""A small HTTP service for one model, on the loopback unless told otherwise.

    POST /score    {"rows": [{...}, ...]} -> {"predictions": [{...}, ...]}
    GET  /         the fields of a row, for people        GET /schema    the same as JSON
    GET  /health   200 while it can score                 GET /metrics   for Prometheus

Bad input is answered with 422 and names the row and the field, too much of it with 413, and too
many requests at once with 503. It has no users and no TLS: what is to be reached from elsewhere
belongs behind a proxy that has.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect

from pipeline.errors import LakestormError, RowError
from pipeline.serving.batcher import Batcher, FullError
from pipeline.serving.log import ServiceLog
from pipeline.serving.rows import to_arrow
from pipeline.serving.scorer import Scorer
from pipeline.serving.wire import from_json, to_json

T = TypeVar("T")
logger = logging.getLogger(__name__)
_LARGE_BYTES = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for."""

    rows_per_request: int = 10_000
    bytes_per_request: int = 16 << 20
    bytes_at_once: int = 256 << 20
    """Of the bodies of all requests that are not answered yet."""
    rows_per_batch: int = 4_096
    waiting_rows: int = 100_000
    seconds: float = 30.0
    """After which a request that still waits is answered with 503."""


class _Measures:
    """What `/metrics` tells."""

    def __init__(self, batcher: Batcher, log: ServiceLog | None) -> None:
        self.registry = CollectorRegistry()
        if log is not None:
            self.registry.register(_LogMeasures(log))
        self.requests = Counter(
            "lakestorm_requests", "Requests to score", ["status"], registry=self.registry
        )
        self.rows = Counter("lakestorm_rows", "Rows scored", registry=self.registry)
        self.seconds = Histogram(
            "lakestorm_request_seconds",
            "Time from a request to its answer",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        waiting = Gauge("lakestorm_waiting_rows", "Rows that wait", registry=self.registry)
        waiting.set_function(lambda: float(batcher.waiting))


class _LogMeasures(Collector):
    """What `/metrics` tells of the log."""

    def __init__(self, log: ServiceLog) -> None:
        self._log = log

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Rows by what became of them."""
        rows = CounterMetricFamily("lakestorm_log_rows", "Rows for the log", labels=["outcome"])
        for outcome, count in self._log.counts.items():
            rows.add_metric([outcome], count)
        yield rows


def application(
    scorer: Scorer, limits: Limits | None = None, log: ServiceLog | None = None
) -> FastAPI:
    """The service as an ASGI application; it closes the log at its end."""
    bounds = limits or Limits()
    score_batch = scorer.score_table if log is None else _logged(scorer, log)
    batcher = Batcher(score_batch, bounds.rows_per_batch, bounds.waiting_rows)
    measures = _Measures(batcher, log)
    desk = _Desk(scorer, batcher, bounds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()
        if log is not None:
            log.close()

    # The interactive pages of FastAPI load scripts from elsewhere.
    app = FastAPI(
        title="lakestorm", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )

    @app.post("/score")
    async def score(request: Request) -> Response:
        begun = time.perf_counter()
        status, answer = await desk.answer(request)
        response = JSONResponse(answer, status)
        measures.requests.labels(str(status)).inc()
        measures.rows.inc(len(answer.get("predictions", ())))
        measures.seconds.observe(time.perf_counter() - begun)
        return response

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "model": scorer.name, "version": scorer.version}

    @app.get("/schema")
    def schema() -> dict[str, Any]:
        return described(scorer)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(_page(scorer))

    return app


def _logged(scorer: Scorer, log: ServiceLog) -> Callable[[pa.Table], pa.Table]:
    """Scores a batch, and leaves it to the log."""
    keys = scorer.bundle.spec.keys

    def score(rows: pa.Table) -> pa.Table:
        features = scorer.features(rows)
        scored = scorer.scored(rows, features)
        given = [key for key in keys if key in rows.column_names]
        log.add(rows.select(given), features, scored.drop_columns(given))
        return scored

    return score


class _Desk:
    """Answers requests to score.

    Args:
        scorer: Knows the fields of a row.
        batcher: Scores.
        limits: What a request may ask for.
    """

    def __init__(self, scorer: Scorer, batcher: Batcher, limits: Limits) -> None:
        self._given, self._keys = scorer.given, scorer.bundle.spec.keys
        self._batcher = batcher
        self._limits = limits
        self._bytes = 0
        # One at a time: JSON in Python takes many times its length.
        self._large = anyio.CapacityLimiter(1)

    async def answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        length = _Length()
        try:
            return 200, {"predictions": await self._predictions(request, length)}
        except LakestormError as error:
            return _status_of(error), _told(error)
        except TimeoutError:
            return 503, {"error": f"not scored within {self._limits.seconds:g} seconds"}
        except ClientDisconnect:
            return 400, {"error": "the connection was closed before the body was read"}
        # Counted like all others, and told to whoever runs the service: not to who asks.
        except Exception:
            logger.exception("a request could not be answered")
            return 500, {"error": "the rows could not be scored; the service's log says why"}
        finally:
            self._bytes -= length.bytes

    async def _predictions(self, request: Request, length: _Length) -> list[dict[str, Any]]:
        body = await self._body(request, length)
        table = await self._aside(body, self._table, body)
        with anyio.fail_after(self._limits.seconds):
            scored = await asyncio.wrap_future(self._batcher.submit(table))
        return await self._aside(body, _as_json, scored)

    async def _aside(self, body: bytes, work: Callable[[Any], T], given: Any) -> T:
        """Does what takes long for a large body in a thread: others are answered meanwhile."""
        if len(body) < _LARGE_BYTES:
            return work(given)
        return await anyio.to_thread.run_sync(work, given, limiter=self._large)

    def _table(self, body: bytes) -> pa.Table:
        rows = _rows_in(body, self._limits.rows_per_request)
        return to_arrow(from_json(rows, self._given), self._given, self._keys)[0]

    async def _body(self, request: Request, length: _Length) -> bytes:
        """The body, read no further than it may be long."""
        parts, most = [], self._limits.bytes_per_request
        async for part in request.stream():
            length.bytes += len(part)
            self._bytes += len(part)
            if length.bytes > most:
                raise _TooMuchError(
                    "body", f"is longer than {most} bytes", "Send fewer rows at once."
                )
            if self._bytes > self._limits.bytes_at_once:
                raise FullError(
                    "service", f"holds {self._bytes} bytes", "Send the request again, later."
                )
            parts.append(part)
        return b"".join(parts)


@dataclass
class _Length:
    """Of a body, as far as it was read."""

    bytes: int = 0


def _as_json(scored: pa.Table) -> list[dict[str, Any]]:
    return [to_json(row) for row in scored.to_pylist()]


class _TooMuchError(LakestormError):
    """A request that is too large."""


def _status_of(error: LakestormError) -> int:
    statuses: dict[type[LakestormError], int] = {_TooMuchError: 413, RowError: 422, FullError: 503}
    return next((status for kind, status in statuses.items() if isinstance(error, kind)), 500)


def _rows_in(body: bytes, most: int) -> list[dict[str, Any]]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RowError("body", f"is no JSON: {error}", 'Send {"rows": [{...}]}.') from error
    rows = given.get("rows") if isinstance(given, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RowError("field rows", "is no list of objects", 'Send {"rows": [{...}]}.')
    if len(rows) > most:
        raise _TooMuchError("field rows", f"has {len(rows)} rows, over {most}", "Send fewer.")
    return rows


def _told(error: LakestormError) -> dict[str, Any]:
    return {
        "error": str(error),
        "where": error.where,
        "problem": error.problem,
        "remedy": error.remedy,
    }


def described(scorer: Scorer) -> dict[str, Any]:
    """The fields of a row, and which of them are keys."""
    keys = scorer.bundle.spec.keys
    return {
        "model": scorer.name,
        "version": scorer.version,
        "spec_hash": scorer.bundle.facts.spec_hash,
        "fields": [{"name": field.name, "type": str(field.type)} for field in scorer.given],
        "keys": [key for key in keys if key not in scorer.given.names],
    }


def _page(scorer: Scorer) -> str:
    """The fields as a page; names come from data and are escaped."""
    found = described(scorer)
    fields = "".join(
        f"<tr><td><code>{html.escape(each['name'])}</code><td>{html.escape(each['type'])}"
        for each in found["fields"]
    )
    optional = ", ".join(html.escape(key) for key in found["keys"]) or "none"
    name = html.escape(f"{found['model']}@{found['version']}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>"
        "<style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:48rem;padding:0 1rem}"
        "td{padding:.1rem 1rem .1rem 0}</style>"
        f"<h1>{name}</h1><p>POST <code>/score</code> with "
        '<code>{"rows": [{...}]}</code>; each row has these fields, null where a value is not '
        f"known.<table>{fields}</table><p>Keys that come back where they are given: {optional}."
    )
