"""Claim: the stream feeds batches many times faster than Petastorm's own BatchedDataLoader.

Rows of 13 floats, 26 ints and a label, Parquet without dictionaries as `featurize` writes it;
shuffled over a window of 262,144 rows, batches of 4,096. Every reader takes its turn in each round;
the medians of the rounds are compared. `raw` is the limit: row groups read by pyarrow on as many
threads, thrown away.

usage: python benchmarks/stream.py [--rows 2000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stream import BatchLayout, Stream

SEED = 7
FILES = 8
THREADS = 2
ROWS_PER_ROW_GROUP = 65_536
ROWS_PER_BATCH = 4_096
WINDOW_ROWS = 262_144
NUMERIC = [f"number_{n}" for n in range(13)]
CATEGORICAL = [f"category_{n}" for n in range(26)]
LAYOUT = BatchLayout(
    matrices={"numeric": NUMERIC, "categorical": CATEGORICAL}, scalars={"label": "label"}
)


def write(folder: Path, rows: int) -> list[str]:
    """Writes the data; returns the paths of its files."""
    random, files = np.random.default_rng(SEED), []
    for number in range(FILES):
        count = rows // FILES
        columns = {name: random.standard_normal(count).astype("f4") for name in NUMERIC}
        for place, name in enumerate(CATEGORICAL):
            columns[name] = random.integers(0, 1000 * (place + 1), count).astype("i4")
        columns["label"] = random.integers(0, 2, count).astype("f4")
        path = str(folder / f"{number}.parquet")
        pq.write_table(
            pa.table(columns), path, row_group_size=ROWS_PER_ROW_GROUP, use_dictionary=False
        )
        files.append(path)
    return files


def read_raw(files: list[str]) -> int:
    """Rows, read and thrown away."""
    groups = [(f, g) for f in files for g in range(pq.read_metadata(f).num_row_groups)]

    def read(group: tuple[str, int]) -> int:
        with pq.ParquetFile(group[0]) as file:
            return int(file.read_row_group(group[1], use_threads=False).num_rows)

    with ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(read, groups))


def read_ours(files: list[str]) -> int:
    """Rows that arrive as batches of the stream."""
    with Stream(
        files,
        LAYOUT,
        rows_per_batch=ROWS_PER_BATCH,
        seed=SEED,
        shuffle_window_rows=WINDOW_ROWS,
        workers_count=THREADS,
    ) as stream:
        return sum(batch.rows for batch in stream.epoch(0))


def read_petastorm(files: list[str]) -> int:
    """Rows that arrive as batches of Petastorm's BatchedDataLoader; it may lose some."""
    from petastorm import make_batch_reader
    from petastorm.pytorch import BatchedDataLoader

    urls = [f"file://{path}" for path in files]
    with (
        contextlib.redirect_stdout(io.StringIO()),  # Petastorm prints when it is closed
        make_batch_reader(urls, workers_count=THREADS, seed=SEED, num_epochs=1) as reader,
    ):
        loader = BatchedDataLoader(
            reader, batch_size=ROWS_PER_BATCH, shuffling_queue_capacity=WINDOW_ROWS
        )
        return sum(len(batch["label"]) for batch in loader)


READERS: dict[str, Callable[[list[str]], int]] = {
    "raw": read_raw,
    "ours": read_ours,
    "petastorm_batched": read_petastorm,
}


def main() -> None:
    """Measures, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore", module="petastorm")  # it wraps arrays that Arrow owns
    speeds: dict[str, list[float]] = {name: [] for name in READERS}
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), chosen.rows)
        for _ in range(chosen.rounds):
            for name, read in READERS.items():
                started = time.perf_counter()
                rows = read(files)
                speeds[name].append(rows / (time.perf_counter() - started))
    medians = {name: statistics.median(each) for name, each in speeds.items()}
    for name, rows_s in medians.items():
        print(f"{name:20} {rows_s / 1e6:6.2f} M rows/s")
    result: dict[str, float] = {f"{name}_rows_s": round(speed) for name, speed in medians.items()}
    result["ratio_petastorm_batched"] = round(medians["ours"] / medians["petastorm_batched"], 2)
    result["ratio_raw"] = round(medians["ours"] / medians["raw"], 3)
    print(json.dumps({"benchmark": "stream", "seed": SEED, "rows": chosen.rows, **result}))


if __name__ == "__main__":
    main()
