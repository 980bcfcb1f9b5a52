"""Decoded row groups on local disk: the second epoch need not decode what the first one did.

    folder/
    |-- <key>.block      one decoded row group, checksummed; its mtime says when it was last used
    |-- incoming         what is being written; renamed to its key when whole
    `-- lock             held (flock) by whoever writes or evicts; holds the bytes in use

The folder is the index, so there is none that can break. Entries appear by a rename and are read
without the lock: a reader finds a whole entry or none, and its checksum tells. Nothing is ever
unpickled. A cache must not end a stream: whatever goes wrong with an entry means decoding again.

The library `diskcache` was tried and is not used: a writer that is killed leaves files that count
towards no limit, an index that somebody changed makes it delete files elsewhere, and it evicts ten
entries at a time (version 5.6.3).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.errors import CacheError
from pipeline.stream.block_format import Block, Part, from_buffer, to_parts

log = logging.getLogger(__name__)

_KEY = re.compile("[0-9a-f]{64}")
_SUFFIX = ".block"


# Whoever holds the lock writes this first: if it is killed, the next one counts anew.
_UNKNOWN = b"?" * 20
_LOCK_TIMEOUT_SECONDS = 10.0
_LOCK_POLL_SECONDS = 0.002
# Evicting a little more than needed, so that a full cache is not listed at every put.
_SPARE_PART = 16


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Where decoded row groups are kept, and how many of them."""

    folder: str
    """A folder on a local disk, for this user alone; the ranks of a host share it."""

    max_bytes: int
    """Most bytes that all entries together take; the least recently used go first."""

    def __post_init__(self) -> None:
        if not self.folder or "://" in self.folder:
            raise CacheError(
                "cache.folder", f"{self.folder!r} is no local folder", "Name a folder by its path."
            )
        if self.max_bytes <= 0:
            raise CacheError(
                "cache.max_bytes",
                f"{self.max_bytes} bytes hold nothing",
                "Give more than 0 bytes, or no cache.",
            )


def block_key(file: str, identity: str, row_group: int, layout_digest: str) -> str:
    """Returns the key of a decoded row group; SHA-256 in hexadecimal.

    Args:
        file: Path or URI of the Parquet file.
        identity: What changes with the file's bytes, such as its ETag, or its size and mtime.
        row_group: Which row group of the file.
        layout_digest: What changes with the columns read and what is made of them.
    """
    # JSON, as pieces that are only joined could be cut elsewhere and give the same text.
    text = json.dumps([file, identity, row_group, layout_digest])
    return hashlib.sha256(text.encode()).hexdigest()


class BlockCache:
    """A bounded folder of decoded row groups, for all threads and processes of a host.

    Args:
        settings: The folder, created for this user alone if it is not there, and the bound.

    Raises:
        CacheError: The folder cannot be created, written or locked.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._folder = Path(settings.folder)
        self._max_bytes = settings.max_bytes
        self._warned = False
        self._patience_seconds = _LOCK_TIMEOUT_SECONDS
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(TimeoutError), _locked(self._folder / "lock", timeout_seconds=0):
                _write_file(self._folder / "incoming", [b"x"])
                (self._folder / "incoming").unlink()
        except OSError as error:
            raise CacheError(
                settings.folder,
                f"it cannot hold the cache: {error}",
                "Name a folder on a local disk that this user may write, or use no cache.",
            ) from error

    def get(self, key: str) -> Block | None:
        """Returns the block put under this key; its arrays are read-only.

        Args:
            key: What `block_key` returned.

        Returns:
            None when it is not there, or was broken and is therefore dropped.
        """
        path = self._path(key)
        try:
            return from_buffer(key, _read_file(path, self._max_bytes))
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - however it is broken, it can be decoded again
            log.warning("cache entry %s is broken and dropped: %s", key, error)
            with suppress(OSError):
                path.unlink()
            return None

    def __contains__(self, key: str) -> bool:
        """Whether `get` is likely to find it; another process may evict it meanwhile."""
        return self._path(key).exists()

    def put(self, key: str, block: Block) -> None:
        """Keeps a block, unless it is larger than the whole cache or the disk refuses it.

        Args:
            key: What `block_key` returned.
            block: The decoded row group.

        Raises:
            TypeError: An array is of a type that is no plain bytes, such as Python objects.
        """
        path = self._path(key)
        parts = to_parts(key, block)
        size_bytes = sum(len(part) for part in parts)
        if size_bytes > self._max_bytes:
            return
        try:
            self._store(path, parts, size_bytes)
            self._patience_seconds = _LOCK_TIMEOUT_SECONDS
        except OSError as error:
            if isinstance(error, TimeoutError):
                # A process that was stopped may hold it for hours: wait no more until it is free.
                self._patience_seconds = 0.0
            if not self._warned:
                log.warning("cache %s cannot be written, going on: %s", self._folder, error)
            self._warned = True

    def volume(self) -> int:
        """Returns the bytes of all entries, and of one that is being written."""
        return sum(size for _, size, _ in self._files())

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key; make it by block_key")
        return self._folder / f"{key}{_SUFFIX}"

    def _store(self, path: Path, parts: Sequence[Part], size_bytes: int) -> None:
        incoming = self._folder / "incoming"
        with _locked(self._folder / "lock", self._patience_seconds) as lock:
            used_bytes = _used_bytes(lock)
            os.pwrite(lock, _UNKNOWN, 0)
            used_bytes = self._make_room(used_bytes, size_bytes)
            try:
                _write_file(incoming, parts)
                incoming.replace(path)
            except BaseException:
                with suppress(OSError):
                    incoming.unlink()
                raise
            # What it replaced, or a reader dropped, is counted still: at worst the folder is listed
            # a little early, and that tells the truth.
            os.pwrite(lock, b"%020d" % (used_bytes + size_bytes), 0)

    def _make_room(self, used_bytes: int | None, size_bytes: int) -> int:
        """Evicts what was not used for longest, if it must; returns the bytes then in use."""
        if used_bytes is not None and used_bytes + size_bytes <= self._max_bytes:
            return used_bytes
        # A holder of the lock that was killed may have left it, of any size.
        (self._folder / "incoming").unlink(missing_ok=True)
        oldest_first = sorted(self._files())
        used_bytes = sum(size for _, size, _ in oldest_first)
        if used_bytes + size_bytes <= self._max_bytes:
            return used_bytes
        goal_bytes = self._max_bytes - size_bytes - self._max_bytes // _SPARE_PART
        for _, size, path in oldest_first:
            if used_bytes <= goal_bytes:
                break
            Path(path).unlink(missing_ok=True)
            used_bytes -= size
        return used_bytes

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """Yields our own files alone, whatever else is there: last use, bytes, path."""
        with os.scandir(self._folder) as found:
            for entry in found:
                key, suffix = os.path.splitext(entry.name)  # noqa: PTH122 - ten times a Path's speed
                if entry.name == "incoming" or (suffix == _SUFFIX and _KEY.fullmatch(key)):
                    # Another process may evict it between the listing and this.
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_mtime_ns, status.st_size, entry.path


def _write_file(path: Path, parts: Sequence[Part]) -> None:
    with open(path, "wb", opener=_open) as file:
        file.writelines(parts)
        file.flush()
        _mark_used(file.fileno())


def _read_file(path: Path, max_bytes: int) -> pa.Buffer:
    """Reads a file into memory that starts at a multiple of 64 bytes, and marks it as used."""
    with open(path, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
            raise ValueError(f"{status.st_size} bytes of mode {stat.filemode(status.st_mode)}")
        buffer = pa.allocate_buffer(status.st_size)
        if file.readinto(buffer) != status.st_size:
            raise ValueError("it was cut short while it was read")
        with suppress(OSError):
            _mark_used(file.fileno())
    return buffer


def _open(path: str | Path, flags: int) -> int:
    # A link or a FIFO that somebody put in the place of our file is not followed nor waited for.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _mark_used(descriptor: int) -> None:
    # The kernel's own `now` moves only every few milliseconds.
    os.utime(descriptor, ns=(time.time_ns(), time.time_ns()))


@contextmanager
def _locked(path: Path, timeout_seconds: float) -> Iterator[int]:
    """Holds the folder's lock; it is released however this process ends.

    Raises:
        TimeoutError: Somebody else holds it all the time, such as a process that was stopped.
    """
    deadline = time.monotonic() + timeout_seconds
    descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{path} is held by another process") from None
                time.sleep(_LOCK_POLL_SECONDS)
        try:
            yield descriptor
        finally:
            # Closing alone would not release it while a forked child has the descriptor, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _used_bytes(lock: int) -> int | None:
    """Returns what the last holder of the lock counted; None when it could not finish."""
    text = os.pread(lock, len(_UNKNOWN), 0)
    return int(text) if len(text) == len(_UNKNOWN) and text.isdigit() else None
