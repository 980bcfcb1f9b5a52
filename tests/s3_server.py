"""A local S3 server, and a proxy in front of it that counts requests and fails where told to."""

from __future__ import annotations

import http.client
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from pipeline.stores import reading as stores

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
# Of one connection only.
_HOP = {"transfer-encoding", "expect", "connection"}
# Requests for paths that begin so are for the proxy itself.
_CONTROL = "/-control-/"
_STATUS = {"SlowDown": 503, "TooManyRequests": 429, "AccessDenied": 403}


class FaultyProxy(ThreadingHTTPServer):
    """Hands requests on to a server on the loopback.

    Faults are the codes above, answered instead of the server; "drop", a connection closed without
    an answer; "cut", one closed in the midst of the body; "lost", a request that is carried out and
    answered with SlowDown; and "hold", one that waits for `release`.
    """

    daemon_threads = False
    block_on_close = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target_port = port
        self.requests: list[str] = []
        self.faults: dict[str, deque[str]] = {}
        self.held = threading.Semaphore(0)
        self.release = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def fail(self, fault: str, times: int, method: str = "GET") -> None:
        """The next requests of this method get this fault."""
        self.faults.setdefault(method, deque()).extend([fault] * times)

    def reset(self) -> None:
        self.requests.clear()
        self.faults.clear()
        self.release.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are part of the tests."""


def body_of(request: BaseHTTPRequestHandler) -> bytes:
    """The body of a request, which may come in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    pieces = []
    while size := int(request.rfile.readline().strip(), 16):
        pieces.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(pieces)


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy

    def answer(self) -> None:
        if self.path.startswith(_CONTROL):
            self._obey(*self.path.removeprefix(_CONTROL).split("/"))
            return
        self.server.requests.append(self.command)
        faults = self.server.faults.get(self.command)
        fault = faults.popleft() if faults else None
        self.close_connection = True
        # Also where it is refused: who is still sending would not read the answer.
        sent = body_of(self)
        if fault == "drop":
            return
        if fault == "hold":
            self.server.held.release()
            self.server.release.wait()
        if fault in _STATUS:
            self._send(_STATUS[fault], [], _ERROR.format(code=fault).encode())
            return
        status, headers, body = self._hand_on(sent)
        if fault == "lost":
            self._send(503, [], _ERROR.format(code="SlowDown").encode())
            return
        self._send(status, headers, body, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

    def _obey(self, what: str, *arguments: str) -> None:
        told = ""
        if what == "fail":
            fault, times, method = arguments
            self.server.fail(fault, int(times), method)
        elif what == "reset":
            self.server.reset()
        else:
            told = " ".join(self.server.requests)
        self._send(200, [], told.encode())

    def log_message(self, *_args: Any) -> None:
        pass

    def _hand_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target_port)
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in _HOP
            }
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _send(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False
    ) -> None:
        kept = {name.lower(): value for name, value in headers}
        kept.pop("connection", None)
        kept.pop("transfer-encoding", None)
        if self.command != "HEAD" or "content-length" not in kept:
            kept["content-length"] = str(len(body))
        self.send_response(status)
        for name, value in kept.items():
            if name not in {"date", "server"}:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)


def give_credentials(patch: pytest.MonkeyPatch, secret: str) -> None:
    """Leaves one key in the environment, and lets retries come at once."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setattr(stores, "_FIRST_WAIT_SECONDS", 0.001)


@contextmanager
def running_moto() -> Iterator[int]:
    """Runs a local S3 server; its port."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


def new_bucket(port: int, name: str) -> pafs.FileSystem:
    """Makes a bucket; returns the store itself, past any proxy."""
    filesystem = pafs.S3FileSystem(
        endpoint_override=f"http://127.0.0.1:{port}",
        region="us-east-1",
        allow_bucket_creation=True,
        request_timeout=60,  # it has just started, perhaps on a busy machine
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
    )
    filesystem.create_dir(name)
    return filesystem


@contextmanager
def running_proxy(port: int) -> Iterator[FaultyProxy]:
    """Runs a proxy in front of a server."""
    proxy = FaultyProxy(port)
    thread = threading.Thread(target=proxy.serve_forever, name="proxy")
    thread.start()
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    thread.join()


@dataclass(frozen=True)
class StoreProcess:
    """A local S3 server, and a proxy in front of it, in a process of their own.

    delta-rs asks while it holds the interpreter's lock: a server in this process could not answer.
    """

    port: int
    """Of the server."""
    proxy_port: int

    def fail(self, fault: str, times: int, method: str = "GET") -> None:
        """As `FaultyProxy.fail`."""
        self._told(f"{_CONTROL}fail/{fault}/{times}/{method}")

    def reset(self) -> None:
        """As `FaultyProxy.reset`."""
        self._told(f"{_CONTROL}reset")

    def requests(self) -> list[str]:
        """Methods that came by the proxy since the last reset."""
        return self._told(f"{_CONTROL}requests").split()

    def _told(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy_port)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


@contextmanager
def running_store() -> Iterator[StoreProcess]:
    """Runs an S3 server and its proxy."""
    command = [sys.executable, "-m", "tests.s3_server"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        port, proxy_port = map(int, process.stdout.readline().split())
        yield StoreProcess(port, proxy_port)
        # Leaving closes its standard input, which it waits for.


def _serve() -> None:
    with running_moto() as port, running_proxy(port) as proxy:
        print(port, proxy.port, flush=True)  # noqa: T201 (it is what the other process waits for)
        sys.stdin.read()


if __name__ == "__main__":
    _serve()
