"""How near a window among permuted row groups comes to a full permutation, and what it costs.

Rows of an id and a label, sorted by label: the worst order there is. The standard deviation of the
label's mean over batches of 4,096 is compared with that of a full permutation (1.0 is perfect),
and Spearman's correlation of a row's place in the epoch with its place in the files is given
(0.0 is perfect), for several windows, canonical shards and row-group sizes; row groups come in
permuted order. Means over several seeds, as a deviation over few hundred batches is itself noisy.
The same rows, written in random order instead of sorted, are measured with the defaults.

What a window costs is measured on the rows of `stream.py`: speed and peak memory, in a process of
its own each, in turn, medians of several rounds.

usage: python benchmarks/stream_shuffle.py [--rows 2000000] [--sorted-rows 8000000] [--rounds 3]
       [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from benchmarks.loading.data import DEFAULT, FILES, ROWS_PER_BATCH, SEED, write
from benchmarks.loading.loaders import prepare, warm_up
from benchmarks.loading.measure import Reading, in_own_process, measure, report
from benchmarks.loading.shuffle import Quality, shuffle_quality, write_sorted
from pipeline.stream import BatchLayout, Stream

WINDOWS = (16_384, 65_536, 262_144, 1_048_576, 2_097_152)
SHARDS: tuple[int | None, ...] = (1, None)
ROW_GROUPS = (2_048, 8_192, 65_536)

Case = tuple[int, int | None, int]
"""Window, canonical shards (None: the default), rows per row group."""


def measure_qualities(folder: Path, rows: int, seeds: int) -> dict[Case, Quality]:
    """Measures every combination, and the defaults of `Stream` as the window 0."""
    measured: dict[Case, Quality] = {}
    for size in ROW_GROUPS:
        files = write_sorted(folder, rows, size)
        for shards in SHARDS:
            for window in WINDOWS:
                measured[window, shards, size] = shuffle_quality(
                    files, shuffle_window_rows=window, canonical_shards=shards, seeds=seeds
                )
        measured[0, None, size] = shuffle_quality(files, seeds=seeds)
    return measured


def read_window(files: list[str], window: int) -> int:
    """Reads the wide rows with the default shards and a window, 0 for the default; rows."""
    layout = BatchLayout(matrices=DEFAULT.matrices, scalars={"label": "label"})
    settings: dict[str, Any] = {"shuffle_window_rows": window} if window else {}
    with Stream(files, layout, rows_per_batch=ROWS_PER_BATCH, seed=SEED, **settings) as stream:
        return sum(batch.rows for batch in stream.epoch(0))


def run_window(folder: Path, rows: int, window: int) -> list[Reading]:
    """Reads with a window, in this process."""
    logging.disable(logging.WARNING)
    prepare()
    files = write(folder, DEFAULT, rows)  # they are there
    warm_up(lambda paths, _: read_window(paths, window), files, DEFAULT)
    return [measure(lambda: read_window(files, window))]


def measure_costs(folder: Path, rows: int, rounds: int) -> dict[int, tuple[float, float]]:
    """Returns for each window the median rows per second and the median peak in MB."""
    write(folder, DEFAULT, rows)
    readings: dict[int, list[Reading]] = {window: [] for window in (*WINDOWS, 0)}
    for _ in range(rounds):
        for window in readings:
            arguments = ("--folder", str(folder), "--rows", str(rows), "--window", str(window))
            readings[window] += in_own_process(__file__, *arguments)
    return {
        window: (
            statistics.median(reading.rows_per_second for reading in each),
            statistics.median(reading.peak_rss_mb for reading in each),
        )
        for window, each in readings.items()
    }


def benchmark(folder: Path, rows: int, sorted_rows: int, rounds: int, seeds: int) -> None:
    """Measures, and prints two tables and the JSON line."""
    logging.disable(logging.WARNING)  # large row groups are few
    qualities = measure_qualities(folder, sorted_rows, seeds)
    print(f"{'window':>10} {'shards':>8} {'row group':>10} {'std ratio':>10} {'rank corr.':>10}")
    for (window, shards, size), quality in qualities.items():
        print(
            f"{window or 'default':>10} {shards or 'default':>8} {size:10} "
            f"{quality.ratio:10.3f} {quality.rank_correlation:10.4f}"
        )
    spread = shuffle_quality(
        write_sorted(folder, sorted_rows, DEFAULT.rows_per_row_group, spread=True), seeds=seeds
    )
    print(
        f"{'default':>10} {'default':>8} {DEFAULT.rows_per_row_group:10} "
        f"{spread.ratio:10.3f} {spread.rank_correlation:10.4f}   written in random order"
    )
    costs = measure_costs(folder, rows, rounds)
    print(f"\n{'window':>10} {'M rows/s':>8} {'peak MB':>8}")
    for window, (speed, peak) in costs.items():
        print(f"{window or 'default':>10} {speed / 1e6:8.2f} {peak:8.0f}")
    default = qualities[0, None, DEFAULT.rows_per_row_group]
    result = {
        "benchmark": "stream_shuffle",
        "seed": SEED,
        "rows": rows,
        "sorted_rows": sorted_rows,
        "shuffle_quality": round(default.ratio, 3),
        "shuffle_quality_written_in_random_order": round(spread.ratio, 3),
        "rank_correlation": round(default.rank_correlation, 4),
        "qualities": {
            f"window_{window}_shards_{shards or 'default'}_row_group_{size}": round(each.ratio, 3)
            for (window, shards, size), each in qualities.items()
            if window
        },
        "rows_s": {str(window or "default"): round(speed) for window, (speed, _) in costs.items()},
        "peak_rss_mb": {str(w or "default"): round(peak) for w, (_, peak) in costs.items()},
    }
    print(json.dumps(result))


def main() -> None:
    """Measures, and prints tables and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--sorted-rows", type=int, default=8_000_000, help="of the sorted data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    # How this script calls itself.
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--window", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    rows = chosen.rows // FILES * FILES
    if chosen.window is not None:
        report(lambda: run_window(chosen.folder, rows, chosen.window))
        return
    with tempfile.TemporaryDirectory() as folder:
        sorted_rows = chosen.sorted_rows // FILES * FILES
        benchmark(Path(folder), rows, sorted_rows, chosen.rounds, chosen.seeds)


if __name__ == "__main__":
    main()
