"""Claim: scoring is many times as fast as `predict_batch_udf`, and near what the cores can do.

10,000,000 rows of 13 floats and 26 ints go through one network (26 embeddings of 8, a hidden layer
of 64) in five ways, see `benchmarks/scoring/ways.py`. Each way has a process with a Spark session
of its own that stays; its first time, cold, is told beside. Then all ways take turns, several
times. Spark ends Python workers that were idle for a minute, so in each turn a way scores twice:
the first time warms it, and the medians of the second count. What they wrote is compared by row.

usage: python benchmarks/score.py [--rows 10000000] [--rounds 3] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from benchmarks.scoring.data import prepare
from benchmarks.scoring.ways import KEY, WAYS
from pipeline.config import Pipeline
from pipeline.session import spark_session

ATOL = 1e-5
"""Largest difference between two ways' scores of a row: sums are rounded in another order."""


@dataclass
class Found:
    """What one way took."""

    cold: float = 0.0
    seconds: list[float] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    worker_mb: float = 0.0
    """Highest resident memory of any of its Python workers."""


class Process:
    """A way in a process of its own, which waits to be told to go."""

    def __init__(self, name: str, pipeline: Pipeline, out: Path) -> None:
        context = get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(name, pipeline, out, theirs))
        self._process.start()
        theirs.close()

    def run(self, found: Found) -> float:
        """Scores all rows; the seconds."""
        self._ours.send("run")
        seconds, found.files, found.worker_mb = self._ours.recv()
        return float(seconds)

    def close(self) -> None:
        """Ends it."""
        self._ours.send("end")
        self._process.join()


def serve(name: str, pipeline: Pipeline, out: Path, asked: Connection) -> None:
    """Scores whenever it is asked to."""
    spark = spark_session(f"benchmark score: {name}")
    way = WAYS[name](spark, pipeline, cores())
    try:
        while asked.recv() == "run":
            way.clear(out)
            started = time.perf_counter()
            files = way.run(out)
            asked.send((time.perf_counter() - started, files, worker_mb()))
    finally:
        way.close()
        spark.stop()


def cores() -> int:
    """Cores of this process; `local[*]` takes as many."""
    return len(os.sched_getaffinity(0))


def worker_mb() -> float:
    """Highest resident memory of a Python process below this one, in MB of 2**20 bytes."""
    marks = [0.0]
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if "python" in child.name():
                status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
                [mark] = [line for line in status if line.startswith("VmHWM:")]
                marks.append(int(mark.split()[1]) / 1024)
    return max(marks)


def scores(files: list[str]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The scores in the order of the keys, each of which is there once."""
    table = pa.concat_tables(
        pq.read_table(file, columns=[KEY, "score"], partitioning=None) for file in files
    )
    table = table.sort_by(KEY)
    if not pc.all(pc.equal(table[KEY], pa.array(np.arange(table.num_rows)))).as_py():
        raise SystemExit(f"not each key once in {files[0]} and its like")
    found: np.ndarray[tuple[int], np.dtype[np.float32]] = table["score"].to_numpy()
    return found


def compare(found: dict[str, Found], rows: int) -> None:
    """Ends the benchmark where two ways do not say the same."""
    expected = scores(found["limit"].files)
    for name, each in found.items():
        given = scores(each.files)
        if len(given) != rows or np.abs(given - expected).max() > ATOL:
            raise SystemExit(f"{name}: {len(given)} rows, or other scores than the limit's")


def measured(pipeline: Pipeline, folder: Path, rounds: int) -> dict[str, Found]:
    """All ways: once cold, then in turn."""
    found = {name: Found() for name in WAYS}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in WAYS:
            processes[name] = Process(name, pipeline, folder / "scores" / name)
            stack.callback(processes[name].close)
            found[name].cold = processes[name].run(found[name])
            print(f"{name}: cold, {found[name].cold:.1f} s", flush=True)
        for number in range(rounds):
            for name, process in processes.items():
                process.run(found[name])
                found[name].seconds.append(process.run(found[name]))
                print(f"round {number + 1}: {name}, {found[name].seconds[-1]:.1f} s", flush=True)
    return found


def show(found: dict[str, Found], rows: int) -> None:
    """Prints a table and a JSON line."""
    speed = {name: rows / statistics.median(each.seconds) for name, each in found.items()}
    print(f"\n{'way':18} {'rows/s':>10} {'slowest':>10} {'fastest':>10} {'cold':>10} {'MB':>6}")
    for name, each in found.items():
        ends = rows / max(each.seconds), rows / min(each.seconds), rows / each.cold
        told = " ".join(f"{value:10,.0f}" for value in (speed[name], *ends))
        print(f"{name:18} {told} {each.worker_mb:6,.0f}")
    best = max(speed["map_in_arrow"], speed["map_in_pandas"])
    line: dict[str, float] = {f"{name}_rows_s": round(value) for name, value in speed.items()}
    line |= {
        "ratio_predict_batch_udf": round(speed["ours"] / speed["predict_batch_udf"], 2),
        "ratio_map_in": round(speed["ours"] / best, 2),
        "ratio_limit": round(speed["ours"] / speed["limit"], 3),
        "peak_rss_mb": round(found["ours"].worker_mb),
    }
    print(json.dumps(line))


def main() -> None:
    """Prepares, measures, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="keeps the table for the next time")
    given = parser.parse_args()
    with room(given.folder) as folder:
        spark = spark_session("benchmark score")
        pipeline = prepare(spark, folder, given.rows)
        spark.stop()
        found = measured(pipeline, folder, given.rounds)
        compare(found, given.rows)
        shutil.rmtree(folder / "scores")
    show(found, given.rows)


@contextlib.contextmanager
def room(folder: str | None) -> Iterator[Path]:
    """The folder that is named, else one that is gone afterwards."""
    if folder is not None:
        yield Path(folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


if __name__ == "__main__":
    main()
