"""Lets a JVM without Hadoop's S3 connector reach a bucket, by two file systems that it does have.

`ViewFileSystemOverloadScheme` answers to `s3a://bucket` and hands on to WebHDFS, whose protocol is
answered here, by Arrow's S3 client. So Spark's own readers, writers and committers work on the
objects that delta-rs and Arrow see; what is not tried is S3A itself.

Source: Hadoop, "WebHDFS REST API".
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow.fs as pafs

from tests.s3_server import body_of

_PREFIX = "/webhdfs/v1"
_DIRECTORY, _FILE = pafs.FileType.Directory, pafs.FileType.File


class _Gateway(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store: pafs.FileSystem) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store


class _Handler(BaseHTTPRequestHandler):
    server: _Gateway
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = unquote(parts.path).removeprefix(_PREFIX).strip("/")
        operation = query["op"].upper()
        if operation in ("OPEN", "CREATE") and "here" not in query:
            body_of(self)
            self._send(307, b"", {"Location": f"{self._self()}{self.path}&here=1"})
            return
        try:
            getattr(self, f"_{operation.lower()}")(path, query)
        except FileNotFoundError as error:
            self._fail(404, "java.io.FileNotFoundException", str(error))
        except AttributeError as error:
            self._fail(400, "java.lang.UnsupportedOperationException", str(error))

    do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

    def log_message(self, *_args: Any) -> None:
        pass

    def _getfilestatus(self, path: str, _: dict[str, str]) -> None:
        self._json({"FileStatus": _status(self._found(path), "")})

    def _liststatus(self, path: str, _: dict[str, str]) -> None:
        found = self._found(path)
        if found.type == _FILE:
            listed = [_status(found, "")]
        else:
            infos = self.server.store.get_file_info(pafs.FileSelector(path))
            listed = [_status(info, info.base_name) for info in infos]
        self._json({"FileStatuses": {"FileStatus": listed}})

    def _open(self, path: str, query: dict[str, str]) -> None:
        with self.server.store.open_input_file(path) as file:
            start = int(query.get("offset", 0))
            length = int(query.get("length", file.size() - start))
            self._send(200, file.read_at(min(length, file.size() - start), start))

    def _create(self, path: str, _: dict[str, str]) -> None:
        body = body_of(self)
        with self.server.store.open_output_stream(path) as file:
            file.write(body)
        self._send(201, b"")

    def _mkdirs(self, path: str, _: dict[str, str]) -> None:
        self.server.store.create_dir(path, recursive=True)
        self._json({"boolean": True})

    def _rename(self, path: str, query: dict[str, str]) -> None:
        target = query["destination"].strip("/")
        store = self.server.store
        if store.get_file_info(target).type != pafs.FileType.NotFound:
            # HDFS would move into a folder that is there; no committer of Spark's wants that.
            self._json({"boolean": False})
            return
        if self._found(path).type == _FILE:
            store.move(path, target)
        else:
            for info in store.get_file_info(pafs.FileSelector(path, recursive=True)):
                if info.type == _FILE:
                    store.copy_file(info.path, target + info.path[len(path) :])
                else:
                    store.create_dir(target + info.path[len(path) :], recursive=True)
            store.create_dir(target, recursive=True)
            store.delete_dir(path)
        self._json({"boolean": True})

    def _delete(self, path: str, _: dict[str, str]) -> None:
        found = self.server.store.get_file_info(path).type
        if found == _DIRECTORY:
            self.server.store.delete_dir(path)
        elif found == _FILE:
            self.server.store.delete_file(path)
        self._json({"boolean": found in (_DIRECTORY, _FILE)})

    def _gethomedirectory(self, _path: str, _query: dict[str, str]) -> None:
        self._json({"Path": "/"})

    def _getfileblocklocations(self, _path: str, _query: dict[str, str]) -> None:
        self._json({"BlockLocations": {"BlockLocation": []}})

    def _setpermission(self, _path: str, _query: dict[str, str]) -> None:
        self._send(200, b"")

    def _found(self, path: str) -> pafs.FileInfo:
        found = self.server.store.get_file_info(path)
        if found.type == pafs.FileType.NotFound:
            raise FileNotFoundError(f"/{path}")
        return found

    def _self(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def _json(self, content: Any) -> None:
        # Without a type: to parse one, Hadoop's client wants a class that Spark does not have.
        self._send(200, json.dumps(content).encode())

    def _fail(self, status: int, kind: str, message: str) -> None:
        told = {"exception": kind.rpartition(".")[2], "javaClassName": kind, "message": message}
        self._send(status, json.dumps({"RemoteException": told}).encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _status(info: pafs.FileInfo, suffix: str) -> dict[str, Any]:
    milliseconds = (info.mtime_ns or 0) // 1_000_000
    return {
        "accessTime": milliseconds,
        "blockSize": 2**27,
        "childrenNum": 0,
        "fileId": 0,
        "group": "g",
        "length": info.size or 0,
        "modificationTime": milliseconds,
        "owner": "o",
        "pathSuffix": suffix,
        "permission": "777",
        "replication": 1,
        "storagePolicy": 0,
        "type": "DIRECTORY" if info.type == _DIRECTORY else "FILE",
    }


@contextmanager
def running_gateway(store: pafs.FileSystem, bucket: str, folder: str) -> Iterator[dict[str, str]]:
    """Runs the gateway; what Hadoop must be told so that it reaches `s3a://bucket/folder` by it."""
    gateway = _Gateway(store)
    thread = threading.Thread(target=gateway.serve_forever, name="gateway")
    thread.start()
    address = f"webhdfs://127.0.0.1:{gateway.server_address[1]}/{bucket}/{folder}"
    yield {
        "fs.s3a.impl": "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme",
        f"fs.viewfs.mounttable.{bucket}.link./{folder}": address,
        # A request that takes long must not be sent again while it is carried out.
        "dfs.webhdfs.socket.connect-timeout": "600s",
        "dfs.webhdfs.socket.read-timeout": "600s",
    }
    gateway.shutdown()
    gateway.server_close()
    thread.join()
