"""The rows of the benchmarks, and the layouts in which they are written."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 7
FILES = 8
THREADS = 2
ROWS_PER_BATCH = 4_096
WINDOW_ROWS = 262_144
ROWS_PER_ROW_GROUP = 65_536
NUMERIC = [f"number_{n}" for n in range(13)]
CATEGORICAL = [f"category_{n}" for n in range(26)]
MATRICES = {"numeric": NUMERIC, "categorical": CATEGORICAL}


@dataclass(frozen=True, slots=True)
class FileLayout:
    """How the rows are put into Parquet files."""

    shape: str
    """`flat`: a column a feature. `packed`: a list column a matrix, as Spark writes `array<float>`.
    `fixed`: the same values, marked in the file's Arrow schema as lists of fixed size."""

    dictionary: bool
    codec: str
    rows_per_row_group: int

    @property
    def name(self) -> str:
        """A name for tables and folders."""
        encoding = "dict" if self.dictionary else "plain"
        return f"{self.shape}-{encoding}-{self.codec}-{self.rows_per_row_group // 1024}k"

    @classmethod
    def of(cls, name: str) -> FileLayout:
        """Reads a name back."""
        shape, encoding, codec, size = name.split("-")
        return cls(shape, encoding == "dict", codec, int(size.removesuffix("k")) * 1024)

    @property
    def is_flat(self) -> bool:
        """Whether each feature is a column of its own."""
        return self.shape == "flat"

    @property
    def matrices(self) -> dict[str, list[str]]:
        """Matrix -> the columns of the files that hold it."""
        return dict(MATRICES) if self.is_flat else {name: [name] for name in MATRICES}


DEFAULT = FileLayout("flat", False, "lz4", 8_192)
"""What featurize writes."""


def layouts() -> list[FileLayout]:
    """Returns the layouts that are measured.

    All row-group sizes without dictionaries; with them, and with lists of fixed size, the largest.
    """
    return [
        FileLayout(shape, dictionary, codec, rows)
        for shape in ("flat", "packed", "fixed")
        for dictionary in (False, True)
        for codec in ("snappy", "lz4", "zstd")
        for rows in (8_192, 16_384, 32_768, 65_536)
        if rows == ROWS_PER_ROW_GROUP or not (dictionary or shape == "fixed")
        if not (dictionary and shape == "fixed")
    ]


def write(folder: Path, layout: FileLayout, rows: int, files: int = FILES) -> list[str]:
    """Writes the rows in one layout, and a small `warm.parquet` beside them; keeps what is there.

    The rows are the same in every layout.

    Args:
        folder: Where the layout's own folder is made.
        layout: How to write.
        rows: How many rows, a multiple of `files`.
        files: How many files to spread them over.

    Returns:
        The files' paths, without the small one.
    """
    home = folder / f"{layout.name}-{rows}"
    home.mkdir(parents=True, exist_ok=True)
    paths = [home / f"{number}.parquet" for number in range(files)]
    for number, path in enumerate(paths):
        _write_file(path, layout, number, rows // files)
    _write_file(home / "warm.parquet", layout, files, ROWS_PER_BATCH)
    return [str(path) for path in paths]


def write_all(folder: Path, wanted: list[FileLayout], rows: int) -> dict[FileLayout, list[str]]:
    """Writes the rows in several layouts, THREADS layouts at a time; returns their files."""
    with ProcessPoolExecutor(THREADS, mp_context=get_context("spawn")) as executor:
        written = executor.map(partial(write, folder, rows=rows), wanted)
        return dict(zip(wanted, written, strict=True))


def warm_file(files: list[str]) -> str:
    """Returns the small file beside the others, for what happens only once in a process."""
    return str(Path(files[0]).with_name("warm.parquet"))


def bytes_of(files: list[str]) -> int:
    """Returns how large the files are together."""
    return sum(Path(file).stat().st_size for file in files)


def table_of(layout: FileLayout, number: int, rows: int) -> pa.Table:
    """Makes the rows of one file.

    Args:
        layout: Only its shape matters here.
        number: Which file; each has rows of its own.
        rows: How many.
    """
    random = np.random.default_rng((SEED, number))
    numeric = random.standard_normal((rows, len(NUMERIC)), np.float32)
    # Columns of a few to many values: 1,000 to 26,000.
    limits = 1000 * np.arange(1, len(CATEGORICAL) + 1)
    categorical = random.integers(0, limits, (rows, len(CATEGORICAL))).astype(np.int32)
    label = random.integers(0, 2, rows).astype(np.float32)
    arrays = {"numeric": numeric, "categorical": categorical}
    return pa.table({**dict(_columns(layout, arrays)), "label": label})


def _columns(
    layout: FileLayout, arrays: dict[str, np.ndarray[Any, Any]]
) -> Iterator[tuple[str, pa.Array]]:
    for name, array in arrays.items():
        if layout.is_flat:
            for place, column in enumerate(MATRICES[name]):
                yield column, pa.array(np.ascontiguousarray(array[:, place]))
        else:
            # [rows, width] -> [rows * width]
            flat = pa.array(array.reshape(-1))
            yield name, pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def _write_file(path: Path, layout: FileLayout, number: int, rows: int) -> None:
    if path.exists():
        return
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(
        table_of(layout, number, rows),
        unfinished,
        row_group_size=layout.rows_per_row_group,
        use_dictionary=layout.dictionary,
        compression=layout.codec,
        # Without Arrow's schema beside Parquet's own, a list of fixed size is read as any list.
        store_schema=layout.shape == "fixed",
    )
    unfinished.rename(path)
