"""Claim: the driver handles a table of 100,000 files in seconds a step, and tells its memory.

What grows with the files and not with the rows is the driver's: a commit with its checks, opening
the table, comparing it with what was scored, the plan of an epoch and the plan of a scoring. Each
step has a process of its own. The files are tiny, hard links to one file a period of 100, so
footers come out of the page cache; on a remote store each costs a request.

usage: python benchmarks/many_files.py [--files 1000 10000 100000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from benchmarks.loading.measure import Reading, in_own_process, measure, report
from pipeline.lake import DataFile, Lake, Table, Transaction, backlog, commit, data_file
from pipeline.scoring.plan import plan_tasks
from pipeline.stream import BatchLayout, Stream

PERIODS = 100
ROWS_PER_FILE = 100
COLUMNS = ("f0", "f1", "f2", "f3")
SCHEMA = pa.schema([*((name, pa.float32()) for name in COLUMNS), ("period", pa.string())])
APP = "made/many_files"


def link_files(table: Table, count: int) -> list[DataFile]:
    """Makes a table of so many files, not committed yet."""
    folder = Path(table.root) / "attempt"
    values = np.random.default_rng(13).random((len(COLUMNS), ROWS_PER_FILE), np.float32)
    rows = pa.table(dict(zip(COLUMNS, values, strict=True)))
    found = []
    for place in range(PERIODS):
        first = folder / f"period={place:04d}" / "part-000000.parquet"
        first.parent.mkdir(parents=True)
        pq.write_table(rows, first)
        path = first.relative_to(table.root).as_posix()
        described = data_file(table.folder, path, SCHEMA, ("period",))
        for number in range(place, count, PERIODS):
            file = first.with_name(f"part-{number // PERIODS:06d}.parquet")
            if file != first:
                os.link(first, file)
            found.append(
                DataFile(
                    path=file.relative_to(table.root).as_posix(),
                    bytes=described.bytes,
                    rows=described.rows,
                    partition=described.partition,
                    statistics=described.statistics,
                )
            )
    return found


def steps(table: Table, count: int) -> dict[str, Callable[[], int]]:
    """What the driver does with all files, in the order in which it is measured."""

    def opened() -> int:
        return len(table.snapshot().files)

    def lacking() -> int:
        return len(backlog("score/none", table, table, table.snapshot(), "period").rows.files)

    def epoch() -> int:
        layout = BatchLayout(matrices={"numeric": COLUMNS})
        with Stream(table.snapshot().uris(), layout, rows_per_batch=1024) as stream:
            next(iter(stream.epoch(0)))
            return stream.row_groups

    def scoring() -> int:
        tasks = plan_tasks(table.snapshot(), "period")
        return sum(len(task.row_groups) for task in tasks)

    return {
        "commit": lambda: commit_all(table, count),
        "open": opened,
        "checkpoint": lambda: checkpoint(table),
        "open a checkpoint": opened,
        "compare": lacking,
        "plan an epoch": epoch,
        "plan a scoring": scoring,
    }


def commit_all(table: Table, count: int) -> int:
    """Commits all files at once, as a stage does."""
    table.create(SCHEMA, ("period",), "many files")
    files = link_files(table, count)
    commit(table, files, transaction=Transaction(APP, 1))
    return len(files)


def checkpoint(table: Table) -> int:
    """Writes the log's checkpoint, as delta-rs does by itself every 100 commits."""
    handle = table.open()
    handle.create_checkpoint()
    return len(handle.file_uris())


def benchmark(folder: Path, counts: list[int]) -> None:
    """Measures all sizes; prints a table and a JSON line."""
    print(f"{'files':>8} {'step':20} {'seconds':>9} {'peak MB':>8} {'us/file':>8}")
    told: dict[str, object] = {"benchmark": "many_files", "files": counts}
    for count in counts:
        lake = folder / str(count)
        for step in steps(Lake(lake).table("many"), count):
            [reading] = in_own_process(__file__, "--step", step, "--lake", str(lake), str(count))
            if reading.rows != count:
                raise SystemExit(f"{step}: {reading.rows} files instead of {count}")
            show(count, step, reading)
            key = step.replace(" ", "_")
            told[f"{key}_s_{count}"] = round(reading.seconds, 2)
            told[f"{key}_mb_{count}"] = round(reading.peak_rss_mb)
    print(json.dumps(told))


def show(count: int, step: str, reading: Reading) -> None:
    """Prints one step."""
    per_file = reading.seconds / count * 1e6
    print(
        f"{count:8,} {step:20} {reading.seconds:9.2f} {reading.peak_rss_mb:8.0f} {per_file:8.1f}",
        flush=True,
    )


def main() -> None:
    """Measures, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where the table goes; removed afterwards")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # how this script calls itself
    parser.add_argument("--lake", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("count", type=int, nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        logging.disable(logging.WARNING)
        step = steps(Lake(given.lake).table("many"), given.count)[given.step]
        report(lambda: [measure(step)])
        return
    with tempfile.TemporaryDirectory(prefix="files-", dir=given.folder) as folder:
        benchmark(Path(folder), given.files)


if __name__ == "__main__":
    main()
