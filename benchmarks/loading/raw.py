"""Decoding alone, at its best: the limit of every loader.

THREADS threads share out the row groups. Each has all files open, with their metadata, before the
clock starts. What is decoded is thrown away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.loading.data import CATEGORICAL, NUMERIC, THREADS, FileLayout

ReadGroup = Callable[[str, int], int]
"""File, row group -> rows read."""


def arrow_reader(files: list[str]) -> Callable[[], int]:
    """Returns a function that reads the files' row groups once with pyarrow: rows."""
    metadata = {file: pq.read_metadata(file) for file in files}

    def open_all() -> ReadGroup:
        opened = {file: pq.ParquetFile(file, metadata=metadata[file]) for file in files}
        return lambda file, group: opened[file].read_row_group(group, use_threads=False).num_rows

    return _on_threads(open_all, metadata)


def jollyjack_reader(files: list[str]) -> Callable[[], int]:
    """Returns a function that reads the files' row groups once with jollyjack: rows.

    The floats with the label, and the ints, go into one column-major array each, used again.
    """
    jollyjack = import_module("jollyjack")
    metadata = {file: pq.read_metadata(file) for file in files}
    names = [field.name for field in next(iter(metadata.values())).schema]
    floats = [names.index(column) for column in [*NUMERIC, "label"]]
    ints = [names.index(column) for column in CATEGORICAL]
    most = max(m.row_group(g).num_rows for m in metadata.values() for g in range(m.num_row_groups))

    def open_all() -> ReadGroup:
        opened = {file: pa.OSFile(file, "rb") for file in files}
        arrays = [
            (np.zeros((most, len(columns)), dtype, order="F"), columns)
            for dtype, columns in (("f4", floats), ("i4", ints))
        ]

        def read(file: str, group: int) -> int:
            rows = int(metadata[file].row_group(group).num_rows)
            for array, columns in arrays:
                jollyjack.read_into_numpy(
                    source=opened[file],
                    metadata=metadata[file],
                    np_array=array[:rows],
                    row_group_indices=[group],
                    column_indices=columns,
                    use_threads=False,
                )
            return rows

        return read

    return _on_threads(open_all, metadata)


def decoders_of(layout: FileLayout) -> dict[str, Callable[[list[str]], Callable[[], int]]]:
    """Returns the decoders that read a layout; jollyjack knows neither dictionaries nor lists."""
    decoders: dict[str, Callable[[list[str]], Callable[[], int]]] = {"pyarrow": arrow_reader}
    if layout.is_flat and not layout.dictionary and find_spec("jollyjack"):
        decoders["jollyjack"] = jollyjack_reader
    return decoders


def _on_threads(open_all: Callable[[], ReadGroup], metadata: dict[str, Any]) -> Callable[[], int]:
    """Shares out the row groups among threads, each with files and arrays of its own."""
    groups = [(file, group) for file, m in metadata.items() for group in range(m.num_row_groups)]
    readers = [open_all() for _ in range(THREADS)]

    def read_all() -> int:
        # Groups are taken one by one; which thread takes which is left to chance.
        left = iter(groups)
        lock = threading.Lock()

        def work(read: ReadGroup) -> int:
            rows = 0
            while True:
                with lock:
                    group = next(left, None)
                if group is None:
                    return rows
                rows += read(*group)

        with ThreadPoolExecutor(THREADS) as threads:
            return sum(threads.map(work, readers))

    return read_all
