"""Claim: one row of `clean` is scored within 5 ms without Java, and many at the network's speed.

A registered model of the demo's lake (`make demo` makes it) scores rows of `clean` in this process,
on one core. Beside it stands what the network alone takes for rows whose features are made: the
difference is what making features costs. For one row both the time on the clock and that of the
processor are told, as the first depends on what else the machine does.

usage: python benchmarks/serve.py [--lake lake] [--model flights@champion] [--rows 200000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `pipeline`

from pipeline.serving.scorer import Scorer

TURNS = 5
CALLS = 300


def main() -> None:
    """Measures and prints a table and one JSON line."""
    arguments = _arguments()
    torch.set_num_threads(1)
    scorer = Scorer.load(arguments.model, arguments.lake)
    clean = pl.read_delta(f"{arguments.lake}/clean").select(scorer.given.names)
    copies = -(-arguments.rows // len(clean))
    rows = pl.concat([clean] * copies).head(arguments.rows).to_arrow()
    row = clean.head(1).to_dicts()[0]
    clock, processor = _one(lambda: scorer.score(row))
    whole, alone = _many(scorer, rows)
    found = {
        "benchmark": "serve",
        "model": f"{scorer.name}@{scorer.version}",
        "features": len(scorer.bundle.spec.columns),
        "one_row_ms": {"clock": clock, "processor": processor},
        "rows": rows.num_rows,
        "rows_per_s": {
            "score": round(rows.num_rows / whole),
            "network": round(rows.num_rows / alone),
        },
        "ratio_network": round(alone / whole, 3),
    }
    print(f"one row: {clock['median']} ms on the clock, {processor['median']} ms of the processor")
    print(f"{rows.num_rows:,} rows: {whole:.2f} s, the network alone {alone:.2f} s")
    print(json.dumps(found))


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


def _many(scorer: Scorer, rows: Any) -> tuple[float, float]:
    """Seconds for all rows: from `clean` to predictions, and of the network alone; medians."""
    features = scorer.features(rows)
    whole, alone = [], []
    for _ in range(TURNS):
        begun = time.perf_counter()
        scorer.score(rows)
        between = time.perf_counter()
        scorer.predictions(features, rows.num_rows)
        whole.append(between - begun)
        alone.append(time.perf_counter() - between)
    return statistics.median(whole), statistics.median(alone)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lake", default="lake")
    parser.add_argument("--model", default="flights@champion")
    parser.add_argument("--rows", type=int, default=200_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
