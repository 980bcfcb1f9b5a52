"""Claim: no broken raw file makes a wrong row, a traceback or a hang.

A good set of three files is spoiled in hundreds of ways, for Parquet, CSV and JSON
(`benchmarks/corrupting/`), and cleaned into a lake that holds a good version. Each variant must end
with its rows in quarantine and a reason, or with one error that names the file and leaves the
tables as they were. Rows of `clean` are compared with what pyarrow, Polars or Python's own JSON
read from the spoiled file, and with the rows from before. A byte that changes a value in a page
without check sum is beyond anybody: such rows count as `changed` where the other engine agrees.

usage: python benchmarks/broken_inputs.py [--only NAME ...] [--seed 13] [--verbose]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from benchmarks.corrupting.catalogue import all_variants
from benchmarks.corrupting.scene import Variant
from benchmarks.corrupting.trial import BAD, VERDICTS, Result, Trials, is_alive
from pipeline.session import spark_session

SEED = 13
LIMIT_SECONDS = 120.0


def main() -> None:
    """Runs the variants; prints a table and one JSON line; exits with 1 if any is bad."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="or patterns")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds a variant")
    parser.add_argument("--verbose", action="store_true", help="prints every variant")
    given = parser.parse_args()
    wanted = [
        each
        for each in all_variants()
        if any(fnmatch.fnmatchcase(each.name, pattern) for pattern in given.only)
    ]
    if not wanted:
        raise SystemExit(f"no variant is called {' or '.join(given.only)}")
    print(f"{len(wanted)} variants, seed {given.seed}", flush=True)
    started = time.monotonic()
    results = run(wanted, seed=given.seed, limit_seconds=given.limit, verbose=given.verbose)
    show(results)
    bad = [result for result in results if result.verdict in BAD]
    for result in bad:
        print(
            f"{result.verdict}: --seed {given.seed} --only '{result.variant.name}': {result.told}"
        )
    print(json.dumps(summary(results, given.seed, time.monotonic() - started)))
    sys.exit(1 if bad else 0)


def run(
    wanted: Sequence[Variant], *, seed: int, limit_seconds: float, verbose: bool
) -> list[Result]:
    """Runs variants one after the other in one session, and in a new one where it died."""
    results = []
    with tempfile.TemporaryDirectory(prefix="broken-") as folder:
        trials = Trials(
            spark_session("broken inputs", "local[2]"),
            Path(folder),
            seed=seed,
            limit_seconds=limit_seconds,
        )
        for variant in wanted:
            result = trials.run(variant)
            results.append(result)
            if verbose:
                print(f"{result.seconds:6.1f} {result.verdict:11} {variant.name}: {result.told}")
                sys.stdout.flush()
            if result.verdict in BAD and not is_alive(trials.spark):
                trials.spark.stop()
                trials.spark = spark_session("broken inputs", "local[2]")
        trials.spark.stop()
    return results


def show(results: Sequence[Result]) -> None:
    """Prints how many variants of each kind ended how."""
    counts = Counter((it.variant.format, it.variant.kind, it.verdict) for it in results)
    print(f"{'format':8} {'kind':22} {'variants':>8} {' '.join(f'{it:>11}' for it in VERDICTS)}")
    kinds = dict.fromkeys((it.variant.format, it.variant.kind) for it in results)
    for file_format, kind in kinds:
        told = [counts[file_format, kind, verdict] for verdict in VERDICTS]
        cells = " ".join(f"{count or '':>11}" for count in told)
        print(f"{file_format:8} {kind:22} {sum(told):8} {cells}")
    totals = Counter(it.verdict for it in results)
    print(f"{'all':31} {len(results):8} {' '.join(f'{totals[it]:11}' for it in VERDICTS)}")


def summary(results: Sequence[Result], seed: int, seconds: float) -> dict[str, object]:
    """What the JSON line says."""
    totals = Counter(it.verdict for it in results)
    return {
        "benchmark": "broken_inputs",
        "variants": len(results),
        "seed": seed,
        **{verdict: totals[verdict] for verdict in VERDICTS},
        "slowest_s": round(max(it.seconds for it in results), 1),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
