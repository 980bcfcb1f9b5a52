"""Claim: one row of `clean` is scored within 5 ms without Java, and many at the network's speed.

A registered model of the demo's lake (`make demo` makes it) scores rows of `clean` in this process,
on one core. For one row both the time on the clock and that of the processor are told, as the first
depends on what else the machine does. Many rows stand beside the limit of `benchmarks/score.py`:
the same model in a plain loop over a Parquet file of features that are made already, scores to
Parquet, on one core. `score` begins with rows of `clean` and makes the features, which the limit
does not; `scored` begins after them. Then the service in a process of its own is asked over HTTP by
several clients at once.

usage: python benchmarks/serve.py [--lake lake] [--model flights@champion] [--rows 200000]
    [--only memory|http]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `pipeline`

from benchmarks.serving.http import many_rows, one_row_each, service
from benchmarks.serving.limit import Limit
from pipeline.serving.scorer import Scorer
from pipeline.serving.wire import to_json

TURNS = 7
CALLS = 300
CLIENTS = (1, 8, 32)
ROWS_PER_REQUEST = 1_000
ATOL = 1e-5
"""Largest difference between two ways' scores of a row, as in `benchmarks/score.py`."""


def main() -> None:
    """Measures and prints tables and one JSON line."""
    arguments = _arguments()
    torch.set_num_threads(1)
    scorer = Scorer.load(arguments.model, arguments.lake)
    clean = pl.read_delta(f"{arguments.lake}/clean").select(scorer.given.names)
    found: dict[str, Any] = {
        "benchmark": "serve",
        "model": f"{scorer.name}@{scorer.version}",
        "features": len(scorer.bundle.spec.columns),
    }
    if arguments.only != "http":
        copies = -(-arguments.rows // len(clean))
        rows = pl.concat([clean] * copies).head(arguments.rows).to_arrow()
        found |= _in_memory(scorer, arguments.lake, clean.head(1).to_dicts()[0], rows)
    if arguments.only != "memory":
        asked = [to_json(row) for row in clean.head(ROWS_PER_REQUEST).to_dicts()]
        found["http"] = _over_http(arguments.model, arguments.lake, asked)
    print(json.dumps(found))


def _in_memory(scorer: Scorer, lake: str, row: Mapping[str, Any], rows: pa.Table) -> dict[str, Any]:
    clock, processor = _one(lambda: scorer.score(row))
    print(f"one row: {clock['median']} ms on the clock, {processor['median']} ms of the processor")
    seconds = _many(scorer, lake, rows)
    speed = {name: rows.num_rows / each for name, each in seconds.items()}
    for name, each in speed.items():
        print(f"{name:10} {each:12,.0f} rows/s {each / speed['limit']:8.2f} of the limit")
    return {
        "one_row_ms": {"clock": clock, "processor": processor},
        "rows": rows.num_rows,
        "rows_per_s": {name: round(each) for name, each in speed.items()},
        "ratio_limit": {
            name: round(speed[name] / speed["limit"], 2) for name in ("score", "scored")
        },
    }


def _one(score: Callable[[], Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of a call, on the clock and of the processor."""
    score()
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(CALLS):
        begun = time.perf_counter(), time.process_time()
        score()
        for seconds, now, then in zip(
            found, (time.perf_counter(), time.process_time()), begun, strict=True
        ):
            seconds.append((now - then) * 1000)
    told = [
        {"median": statistics.median(each), "p95": sorted(each)[int(CALLS * 0.95)]}
        for each in found
    ]
    return tuple({k: round(v, 2) for k, v in each.items()} for each in told)  # type: ignore[return-value]


def _many(scorer: Scorer, lake: str, rows: pa.Table) -> dict[str, float]:
    """Seconds for all rows, of the processor, medians; ways take turns.

    Of the processor, as all is done on one core: what else runs there is not counted.
    """
    features = scorer.features(rows)
    with Limit(scorer, lake, features) as limit:
        ways: dict[str, Callable[[], Any]] = {
            "score": lambda: scorer.score(rows),
            "features": lambda: scorer.features(rows),
            "scored": lambda: scorer.scored(rows, features),
            "limit": limit.scoring(),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(TURNS):
            for name, way in ways.items():
                begun = time.process_time()
                way()
                taken[name].append(time.process_time() - begun)
        ours, theirs = (each.to_numpy() for each in (scorer.score(rows)["score"], limit.scores()))
        if np.abs(ours - theirs).max() > ATOL:
            raise SystemExit("other scores than the limit's")
    return {name: statistics.median(each) for name, each in taken.items()}


def _over_http(model: str, lake: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    with service(model, lake) as address:
        found = [one_row_each(address, rows, clients) for clients in CLIENTS]
        many = many_rows(address, rows)
    print(f"{'clients':>8} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'requests/s':>11}")
    for each in found:
        told = " ".join(f"{each[f'p{part}_ms']:8.2f}" for part in (50, 95, 99))
        print(f"{each['clients']:8} {told} {each['requests_per_s']:11,}")
    print(
        f"{many['rows']:,} rows at once: p50 {many['p50_ms']} ms, p99 {many['p99_ms']} ms, "
        f"{many['rows_per_s']:,} rows/s"
    )
    return {"one_row_each": found, "many_rows": many}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lake", default="lake")
    parser.add_argument("--model", default="flights@champion")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--only", choices=("memory", "http"), help="One half of it.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
