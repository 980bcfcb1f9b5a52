"""Claim: the stream's memory does not grow with the data: within 10 % for 1, 4 and 16 million rows.

The same 40 columns as `stream.py`, read for one epoch with the window of 262,144 rows that all
loaders have there, each size in a process of its own, in turn, for several rounds; the medians of
the highest resident memory count. The stream's own window of 2,097,152 rows, which a million rows
do not fill, is measured beside it.

A million rows are written, in files of 250,000; the larger sizes are those files again under other
names (hard links), which the stream cannot know.

usage: python benchmarks/stream_memory.py [--rows 1000000 4000000 16000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from benchmarks.loading.data import DEFAULT, SEED, WINDOW_ROWS, write
from benchmarks.loading.loaders import prepare, read_ours, warm_up
from benchmarks.loading.measure import Reading, in_own_process, measure, report

FILES = 4

Case = tuple[int | None, int]
"""Window, None for the stream's own, and rows."""


def write_sizes(folder: Path, sizes: list[int]) -> dict[int, list[str]]:
    """Writes the smallest size and links it for the others, whole multiples of it: their files."""
    smallest = min(sizes)
    written = write(folder, DEFAULT, smallest, FILES)
    return {rows: _links(folder / str(rows), written, rows // smallest) for rows in sizes}


def _links(folder: Path, written: list[str], times: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    links = []
    for number in range(times):
        for file in map(Path, written):
            link = folder / f"{number}-{file.name}"
            if not link.exists():
                os.link(file, link)
            links.append(str(link))
    os.link(Path(written[0]).with_name("warm.parquet"), folder / "warm.parquet")
    return links


def read_folder(folder: Path, window_rows: int | None) -> list[Reading]:
    """Reads one size, in this process."""
    logging.disable(logging.WARNING)  # the warm-up has one row group
    prepare()
    files = sorted(str(file) for file in folder.glob("*-*.parquet"))
    warm_up(read_ours, files, DEFAULT)
    return [measure(lambda: read_ours(files, DEFAULT, window_rows=window_rows))]


def benchmark(folder: Path, sizes: list[int], rounds: int) -> None:
    """Measures all sizes, and prints the table and the JSON line."""
    write_sizes(folder, sizes)
    readings: dict[Case, list[Reading]] = {
        (window, rows): [] for window in (WINDOW_ROWS, None) for rows in sizes
    }
    for _ in range(rounds):
        for window, rows in readings:
            own_window = () if window else ("--own-window",)
            arguments = ("--read", str(folder / str(rows)), *own_window)
            readings[window, rows] += in_own_process(__file__, *arguments)
            if readings[window, rows][-1].rows != rows:
                raise SystemExit(f"{readings[window, rows][-1].rows} of {rows} rows came")
    print(f"{'window':>10} {'rows':>12} {'peak MB':>8} {'min-max':>11} {'M rows/s':>8}")
    peaks: dict[Case, float] = {}
    for (window, rows), each in readings.items():
        all_peaks = [reading.peak_rss_mb for reading in each]
        peaks[window, rows] = statistics.median(all_peaks)
        speed = statistics.median(reading.rows_per_second for reading in each)
        spread = f"{min(all_peaks):.0f}-{max(all_peaks):.0f}"
        print(
            f"{window or 'its own':>10} {rows:12,} {peaks[window, rows]:8.0f} {spread:>11} "
            f"{speed / 1e6:8.2f}"
        )
    result = {
        "benchmark": "stream_memory",
        "seed": SEED,
        **{
            f"peak_rss_mb_{rows}{'' if window else '_own_window'}": round(peak)
            for (window, rows), peak in peaks.items()
        },
        "ratio_largest_to_smallest": round(
            peaks[WINDOW_ROWS, max(sizes)] / peaks[WINDOW_ROWS, min(sizes)], 3
        ),
    }
    print(json.dumps(result))


def main() -> None:
    """Measures, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = [1_000_000, 4_000_000, 16_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes, help="multiples of the first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # how this script calls itself
    parser.add_argument("--own-window", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.read:
        window_rows = None if chosen.own_window else WINDOW_ROWS
        report(lambda: read_folder(chosen.read, window_rows))
        return
    with tempfile.TemporaryDirectory() as folder:
        benchmark(Path(folder), chosen.rows, chosen.rounds)


if __name__ == "__main__":
    main()
