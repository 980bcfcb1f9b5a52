"""Claim: with the cache, epoch 2 is at least 5 times as fast as epoch 1 on a store of 20 MB/s.

The store is a file system of fsspec over a local folder, under a protocol of its own. All that its
handles read together, over all threads, gets 20 MB/s. One stream with a cache reads two epochs; a
second stream, as after a restart, reads one more from the same cache.

usage: python benchmarks/stream_cache.py [--rows 400000] [--megabytes-per-second 20]
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from benchmarks.loading.data import DEFAULT, FILES, ROWS_PER_BATCH, SEED, bytes_of, write
from benchmarks.loading.measure import Reading, measure
from pipeline.stream import BatchLayout, Stream
from pipeline.stream.cache import CacheSettings

LAYOUT = BatchLayout(matrices=DEFAULT.matrices, scalars={"label": "label"})


class Throttle:
    """Lets a number of bytes a second pass, over all threads; nothing is saved up while idle."""

    def __init__(self) -> None:
        self.bytes_per_second = float("inf")
        self.bytes_passed = 0
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, length: int) -> None:
        """Returns when so many more bytes may have come."""
        with self._lock:
            self.bytes_passed += length
            begin = max(self._free_at, time.monotonic())
            self._free_at = begin + length / self.bytes_per_second
            until = self._free_at
        time.sleep(max(0.0, until - time.monotonic()))


THROTTLE = Throttle()


class ThrottledFile(io.FileIO):
    """A local file whose reads wait for the throttle."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads, no faster than the store."""
        data = super().read(-1 if size is None else size) or b""
        THROTTLE.wait(len(data))
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Reads into a buffer, no faster than the store."""
        length = super().readinto(buffer) or 0
        THROTTLE.wait(length)
        return length


class SlowFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """The local file system behind the throttle, read-only: `slow:///folder/file`."""

    protocol = "slow"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = LocalFileSystem()

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """Lists a folder."""
        return self._local.ls(path, detail=detail, **options)

    def info(self, path: str, **options: Any) -> Any:
        """Returns size, time of change, and so on."""
        return self._local.info(self._strip_protocol(path), **options)

    def modified(self, path: str) -> Any:
        """Returns the time of the last change."""
        return self._local.modified(self._strip_protocol(path))

    def _open(self, path: str, mode: str = "rb", **_options: Any) -> ThrottledFile:
        return ThrottledFile(path, mode)


def read_epoch(stream: Stream, epoch: int) -> tuple[Reading, int]:
    """Reads an epoch; returns what it took, and the bytes that came from the store."""
    before = THROTTLE.bytes_passed
    reading = measure(lambda: sum(batch.rows for batch in stream.epoch(epoch)))
    return reading, THROTTLE.bytes_passed - before


def read_epochs(files: list[str], cache: CacheSettings) -> list[tuple[Reading, int]]:
    """Reads two epochs with one stream and one with another."""

    def open_stream() -> Stream:
        return Stream(files, LAYOUT, rows_per_batch=ROWS_PER_BATCH, seed=SEED, cache=cache)

    with open_stream() as stream:
        readings = [read_epoch(stream, epoch) for epoch in (0, 1)]
    with open_stream() as stream:
        return [*readings, read_epoch(stream, 2)]


def benchmark(folder: Path, rows: int, megabytes_per_second: float) -> None:
    """Measures, and prints the table and the JSON line."""
    logging.disable(logging.WARNING)  # small data has few row groups
    fsspec.register_implementation("slow", SlowFileSystem)
    written = write(folder / "data", DEFAULT, rows)
    THROTTLE.bytes_per_second = megabytes_per_second * 1e6
    cache = CacheSettings(folder=str(folder / "cache"), max_bytes=1 << 32)
    epochs = read_epochs([f"slow://{file}" for file in written], cache)
    print(f"{bytes_of(written) / 1e6:.0f} MB of Parquet at {megabytes_per_second:g} MB/s")
    print(f"{'epoch':24} {'seconds':>8} {'M rows/s':>8} {'MB read':>8} {'rows':>9}")
    names = ("1", "2", "3, another stream")
    for name, (reading, bytes_read) in zip(names, epochs, strict=True):
        if reading.rows != rows:
            raise SystemExit(f"{reading.rows} of {rows} rows came in epoch {name}")
        print(
            f"{name:24} {reading.seconds:8.2f} {reading.rows_per_second / 1e6:8.2f} "
            f"{bytes_read / 1e6:8.1f} {reading.rows:9,}"
        )
    first, second, third = (reading.seconds for reading, _ in epochs)
    result = {
        "benchmark": "stream_cache",
        "seed": SEED,
        "rows": rows,
        "epoch_1_rows_s": round(rows / first),
        "epoch_2_rows_s": round(rows / second),
        "ratio": round(first / second, 2),
        "ratio_after_restart": round(first / third, 2),
    }
    print(json.dumps(result))


def main() -> None:
    """Measures, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--megabytes-per-second", type=float, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        benchmark(Path(folder), chosen.rows // FILES * FILES, chosen.megabytes_per_second)


if __name__ == "__main__":
    main()
