"""Where the bytes of Parquet files come from: local disks, S3, and every store fsspec knows.

S3 is read by Arrow's own client, without a further package and without the interpreter's lock.
Whatever fails in passing (a throttled, dropped or timed-out request) is tried again here, and only
here, so that each retry is seen in the log. `stream.read_ahead` fetches what workers need next.
"""

from __future__ import annotations

import io
import logging
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from pipeline.errors import StoreError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_ATTEMPTS = 5
# A wait is drawn from 0 up to a bound that doubles, so that ranks do not come back all at once.
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_CONNECT_TIMEOUT_SECONDS = 5.0
# How long a connection may be silent; also the longest that `ReadAhead.close` may take.
_SILENCE_TIMEOUT_SECONDS = 10.0

_S3_SCHEMES = frozenset({"s3", "s3a", "s3n"})
_S3_OPTIONS = frozenset({"endpoint_override", "region", "scheme"})
_SECRET_OPTION = re.compile(
    r"(?:^|&)(?:sig|key|[^=&]*(?:signature|token|secret|passw|credential|api_?key)[^=&]*)=",
    re.IGNORECASE,
)
_PASSING_STATUS = frozenset({"429", "500", "502", "503", "504"})
# INTERNAL_FAILURE is also what Arrow makes of an error whose text is longer than the range.
_PASSING_TEXT = re.compile(
    r"AWS Error (?:SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT"
    r"|NETWORK_CONNECTION)|HTTP status (?:429|500|502|503|504)\b|Unable to parse ExceptionName: "
    r"(?:SlowDown|TooManyRequests|Throttling|ServiceUnavailable|InternalError|RequestTimeout)",
    re.IGNORECASE,
)
# What stores call that which is another after every write.
_VERSION_FIELDS = (
    "etag",
    "generation",
    "versionid",
    "version_id",
    "content-md5",
    "md5hash",
    "mtime",
    "lastmodified",
    "last_modified",
    "updated",
)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A remote file that was found: its bytes, and how to get a range of them."""

    name: str
    size: int
    read_at: Callable[[int, int], bytes]
    """Length and start, in bytes, to the bytes; called by several threads at once."""


def is_remote(file: str) -> bool:
    """Whether reading a file goes over a network, or through fsspec."""
    return "://" in file and not file.startswith("file:")


def open_file(file: str) -> pa.NativeFile:
    """Opens a file for random access, also by several threads.

    Args:
        file: An absolute path; a `file://` or `s3://` URI, percent-encoded; or a URI that fsspec
            knows. S3 takes `?endpoint_override=...&scheme=...&region=...`, else
            `AWS_ENDPOINT_URL`, and credentials only from AWS's own chain.

    Raises:
        StoreError: No store answers to the URI, or it carries a secret.
        OSError: The file is not there, may not be read, or its store fails again and again.
    """
    if not is_remote(file):
        # No memory map: a file that is cut short while mapped would kill the process.
        return pa.OSFile(_local_path(file))
    closing = threading.Event()
    found = find(file, closing)
    reader = RangedFile(found.size, lambda length, start: fetch(found, length, start, closing))
    return pa.PythonFile(reader, mode="r")


def identity_of(file: str) -> str:
    """Returns a text that is another one after the content changes.

    It rests on the size and: for local files on the time of the last change in nanoseconds, as
    exact as the disk keeps it; on S3 on the ETag and, in versioned buckets, the version; elsewhere
    on what the store calls ETag, generation, checksum or time of change. It does not hold the name.

    Args:
        file: As `open_file` takes it.

    Raises:
        StoreError: As for `open_file`; or the store says nothing by which a change could be seen.
        OSError: As for `open_file`.
    """
    if not is_remote(file):
        status = Path(_local_path(file)).stat()
        return f"{status.st_size}-{status.st_mtime_ns}"
    return _retried(file, lambda: _remote_identity(file))


def list_parquet(folder: str) -> list[str]:
    """Returns the data files under a folder, sorted, each as `open_file` takes it.

    Passes over what Hive, Spark and Petastorm pass over: names that begin with `_` or `.`, files in
    such folders (but not in a partition `_column=value`), checksums and folder markers.

    Args:
        folder: A folder, in the forms that `open_file` takes files in.

    Raises:
        StoreError: As for `open_file`.
        OSError: The folder is not there, or cannot be listed.
    """
    filesystem, root = _resolve(folder)
    found = pafs.FileSelector(root, recursive=True)
    entries = _retried(folder, lambda: filesystem.get_file_info(found))
    paths = []
    for path in sorted(entry.path for entry in entries if entry.is_file):
        *folders, name = path[len(root) :].strip("/").split("/")
        if not is_private(folders, name):
            paths.append(path)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return [Path(path).as_uri() for path in paths] if folder.startswith("file:") else paths
    if isinstance(filesystem, pafs.PyFileSystem):
        return [filesystem.handler.fs.unstrip_protocol(path) for path in paths]
    scheme, rest = folder.split("://", 1)
    options = "".join(rest.partition("?")[1:])
    return [f"{scheme}://{quote(path)}{options}" for path in paths]


def is_private(folders: Sequence[str], name: str) -> bool:
    """Whether Hive, Spark and the old pyarrow pass over this file: `_SUCCESS`, `.crc` and such."""
    hidden_folder = any(f[:1] in {"_", "."} and "=" not in f for f in folders)
    return hidden_folder or name[:1] in {"_", "."} or name.endswith((".crc", "_$folder$"))


def writable(file: str) -> tuple[pafs.FileSystem, str]:
    """The store of a remote file or folder, to be written, listed or deleted from; its path there.

    Here Arrow tries again by itself what fails in passing: what it sends is not read by ranges.

    Args:
        file: As `open_file` takes it.

    Raises:
        StoreError: No store answers to the URI, or it carries a secret.
    """
    return _resolve(file, tries=_ATTEMPTS)


def find(file: str, closing: threading.Event) -> StoredObject:
    """Asks the store for a remote file's size."""
    return _retried(file, lambda: _find_once(file), closing)


def _find_once(file: str) -> StoredObject:
    filesystem, path = _resolve(file)
    if not isinstance(filesystem, pafs.PyFileSystem):
        opened = filesystem.open_input_file(path)
        return StoredObject(file, opened.size(), opened.read_at)
    store = filesystem.handler.fs
    size = store.info(path)["size"]
    if size is None:
        raise OSError(f"{file}: the store does not say how long it is")
    return StoredObject(
        file, size, lambda length, start: store.cat_file(path, start=start, end=start + length)
    )


def fetch(found: StoredObject, length: int, start: int, closing: threading.Event) -> bytes:
    """Reads a range of a remote file; never fewer bytes than asked for.

    Of an S3 object that was replaced by a shorter one, Arrow gives as many bytes as were asked for,
    the last of them arbitrary. Like every replaced object this goes unseen: a snapshot's files must
    not change.
    """
    data = _retried(found.name, lambda: found.read_at(length, start), closing)
    if len(data) < length:
        raise OSError(
            f"{found.name}: ends at byte {start + len(data)}, expected {start + length} or more"
        )
    return data


def _retried(file: str, attempt: Callable[[], _T], closing: threading.Event | None = None) -> _T:
    """Tries again what may pass; `closing` ends the waiting and the trying."""
    closing = closing or threading.Event()

    def warn(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        _log.warning(
            "%s: attempt %d of %d failed, trying again in %.1f s: %s: %s",
            *(file, state.attempt_number, _ATTEMPTS, state.upcoming_sleep),
            *(type(error).__name__, error),
        )

    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(_ATTEMPTS) | stop_when_event_set(closing),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
        sleep=sleep_using_event(closing),
        before_sleep=warn,
        reraise=True,
    )
    return retrying(attempt)


def _may_pass(error: BaseException) -> bool:
    """Whether a later attempt may succeed: throttling, dropped connections, time-outs."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    # The packages under fsspec have errors of their own, with the answer's status.
    status = [getattr(error, name, None) for name in ("status", "status_code", "code")]
    if _PASSING_STATUS.intersection(map(str, status)):
        return True
    # Arrow has only OSError for what S3 answers, and FileNotFoundError.
    return isinstance(error, OSError) and bool(_PASSING_TEXT.search(str(error)))


def _resolve(file: str, tries: int = 1) -> tuple[pafs.FileSystem, str]:
    """Returns a file's file system and its path there."""
    if not is_remote(file):
        return pafs.LocalFileSystem(), _local_path(file).rstrip("/") or "/"
    scheme, rest = file.split("://", 1)
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    _refuse_secrets(scheme, authority, rest)
    if scheme in _S3_SCHEMES:
        path, _, query = rest.partition("?")
        return _s3_of(file, authority, query, tries), unquote(path).rstrip("/")
    if "::" in scheme:
        raise StoreError(file, "a chain of file systems", "Name the store itself.")
    return _fsspec(scheme, authority), fsspec.core.strip_protocol(file)


def _refuse_secrets(scheme: str, authority: str, rest: str) -> None:
    userinfo, _, host = authority.rpartition("@")
    # `key:sec/ret@bucket`: the slash ends the authority, so the secret looks like a port.
    port = host.rpartition("]")[2].partition(":")[2]
    found = None
    if ":" in userinfo or (port and not port.isdigit()):
        found = "a password"
    elif scheme in _S3_SCHEMES and (":" in authority or "@" in authority):
        found = "an access key"
    elif _SECRET_OPTION.search(rest.partition("?")[2]):
        found = "a secret option"
    if found:
        raise StoreError(
            f"{scheme}://...",
            f"{found} in the URI",
            "URIs end up in logs and manifests: give credentials by the environment.",
        )


def _s3_of(file: str, bucket: str, query: str, tries: int) -> pafs.S3FileSystem:
    options = dict(parse_qsl(query))
    if unknown := sorted(options.keys() - _S3_OPTIONS):
        raise StoreError(
            file.partition("?")[0],
            f"S3 options {unknown}",
            f"Known are {sorted(_S3_OPTIONS)}; write a `?` in a name as %3F.",
        )
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = options.get("endpoint_override") or environment or ""
    if "@" in endpoint:
        raise StoreError(
            f"s3://{bucket}",
            "a password in the endpoint",
            "Give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    protocol, _, host = endpoint.rstrip("/").rpartition("://")
    region = options.get("region")
    if not region and not host:
        region = _region_of(bucket)
    return _s3(options.get("scheme") or protocol or "https", host, region, tries)


@cache
def _region_of(bucket: str) -> str:
    return str(pafs.resolve_s3_region(bucket))


@cache
def _s3(scheme: str, endpoint: str, region: str | None, tries: int) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        scheme=scheme,
        endpoint_override=endpoint or None,
        region=region,
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        request_timeout=_SILENCE_TIMEOUT_SECONDS,
        # Retries within retries multiply, and these are not logged: for reading there is one try.
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=tries),
    )


@cache
def _fsspec(scheme: str, authority: str) -> pafs.PyFileSystem:
    where = f"{scheme}://{authority}"
    try:
        filesystem, _ = fsspec.core.url_to_fs(f"{where}/")
    except ValueError as error:
        known = "Take a path, file://, s3:// or a protocol of `fsspec.available_protocols()`."
        raise StoreError(where, str(error), known) from error
    except ImportError as error:
        remedy = f"Install what fsspec needs for {scheme}:// beside lakestorm, on every machine."
        raise StoreError(where, str(error), remedy) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


def _remote_identity(file: str) -> str:
    filesystem, path = _resolve(file)
    if not isinstance(filesystem, pafs.PyFileSystem):
        with filesystem.open_input_file(path) as opened:
            size, said = opened.size(), opened.metadata()
        facts = {name.lower(): value.decode() for name, value in said.items()}
    else:
        store = filesystem.handler.fs
        # Listings that it keeps would hide a change.
        store.invalidate_cache(path)
        facts = {name.lower(): value for name, value in store.info(path).items()}
        size = facts["size"]
    versions = {name: facts[name] for name in _VERSION_FIELDS if facts.get(name)}
    if not versions and isinstance(filesystem, pafs.PyFileSystem):
        versions = _time_of_change(store, path)
    if not versions:
        raise StoreError(
            file,
            "its store gives neither ETag nor time of change",
            "Read it without a cache, or from another store.",
        )
    return "-".join([str(size), *(f"{name}={value}" for name, value in versions.items())])


def _time_of_change(store: Any, path: str) -> dict[str, Any]:
    try:
        return {"modified": store.modified(path)}
    except NotImplementedError:
        return {}


def _local_path(file: str) -> str:
    if not file.startswith("file:"):
        return file
    # `file:/a`, which Hadoop writes, and `file:///a`.
    host, slash, path = file.removeprefix("file:").removeprefix("//").partition("/")
    if host not in {"", "localhost"} or not slash:
        raise StoreError(file, f"the URI names a host, {host!r}", "Write file:///absolute/path.")
    return unquote(f"/{path}")


class RangedFile(io.RawIOBase):
    """A file made of ranges: those fetched already, and any other by a request.

    Args:
        size: Bytes of the whole file.
        read_at: Reads a length from a start.
        starts: Where the fetched parts begin; ascending.
        parts: The fetched parts.
    """

    def __init__(
        self,
        size: int,
        read_at: Callable[[int, int], bytes],
        starts: Sequence[int] = (),
        parts: Sequence[bytes] = (),
    ) -> None:
        super().__init__()
        self._size, self._read_at, self._starts, self._parts = size, read_at, starts, parts
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to an offset from the start, the position or the end."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Returns the byte at which the next read begins."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Reads up to `size` bytes, or all that are left."""
        return self.read_buffer(self._size if size < 0 else size).to_pybytes()  # type: ignore[no-any-return]

    def read_buffer(self, size: int) -> pa.Buffer:
        """Reads without a copy where one fetched part holds it all; Arrow asks for this one."""
        start, stop = self._position, min(self._position + size, self._size)
        pieces = []
        while start < stop:
            pieces.append(self._piece(start, stop))
            start += pieces[-1].size
        self._position = max(self._position, stop)
        return pieces[0] if len(pieces) == 1 else pa.py_buffer(b"".join(pieces))

    def _piece(self, start: int, stop: int) -> pa.Buffer:
        """Returns bytes from `start` on, up to `stop` or the end of a fetched part."""
        after = bisect_right(self._starts, start)
        if after:
            within = start - self._starts[after - 1]
            part = self._parts[after - 1]
            if within < len(part):
                return pa.py_buffer(part).slice(within, min(stop - start, len(part) - within))
        if after < len(self._starts):
            stop = min(stop, self._starts[after])
        return pa.py_buffer(self._read_at(stop - start, start))
