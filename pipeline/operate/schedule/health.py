"""`GET /health` on the loopback: 200 while all is well, 503 while a job fails, else 404."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.errors import ScheduleError

LOOPBACK = "127.0.0.1"

Report = Callable[[], tuple[bool, dict[str, Any]]]
"""Whether all is well, and what to tell of it."""


@contextmanager
def health_endpoint(port: int, report: Report) -> Iterator[str]:
    """Answers while the block runs.

    Args:
        port: Of the loopback; 0 for any that is free.
        report: Asked anew by each request, in a thread of its own.

    Yields:
        The address.

    Raises:
        ScheduleError: The port cannot be had.
    """
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), _handler(report))
    except OSError as error:
        raise ScheduleError(
            f"schedule.health_port {port}",
            f"cannot be listened on: {error.strerror or error}",
            "Choose another one, or 0 for any that is free.",
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/health"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(report: Report) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "lakestorm", ""
        timeout = 10  # a connection that asks nothing is closed

        def do_GET(self) -> None:
            if self.path != "/health":
                self._nothing_here()
                return
            well, told = report()
            self._answer(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, told)

        def _nothing_here(self) -> None:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "only GET /health is answered"})

        do_HEAD = do_POST = do_PUT = do_DELETE = _nothing_here  # noqa: N815 - http.server's names
        do_PATCH = do_OPTIONS = _nothing_here  # noqa: N815

        def _answer(self, code: HTTPStatus, told: dict[str, Any]) -> None:
            # JSON, and said to be nothing else: no text of it becomes markup.
            body = json.dumps(told).encode() + b"\n"
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its signature
            """Says nothing: probes come every few seconds."""

    return Handler
