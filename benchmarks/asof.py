"""Claim: a point-in-time join takes as long as sorting both sides, however long a key's history is.

1,000,000 events meet 200,000 right rows, spread over fewer and fewer keys, so that each key has
a longer history: by our window over both sides (`pipeline/clean/asof.py`), by Spark 4.3's own
`ASOF JOIN`, and, if asked for with far fewer rows, by `DataFrame._joinAsOf` as Spark rewrites it.
The ways' answers are compared. CPU seconds are the JVM's: other work on the machine does not count.

usage: python benchmarks/asof.py [--rows 1000000] [--keys 20000 1000 200] [--ways window spark]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `pipeline`

from pipeline.clean.asof import joined_as_of
from pipeline.config import Asof, Join
from pipeline.session import spark_session

RIGHT_SHARE = 5
"""Events for each right row."""
YEAR_MICROS = 365 * 86_400 * 10**6
NEW_YEAR_MICROS = 1_357_000_000 * 10**6
ASOF = Asof(left="at", right="since", tolerance=timedelta(days=7))
JOIN = Join.model_validate(
    {
        "path": "prices",
        "on": {"product": "product"},
        "asof": ASOF,
        "columns": {
            "product": {"type": "bigint"},
            "since": {"type": "timestamp"},
            "price": {"type": "bigint"},
        },
        "select": {"price": "price"},
    }
)


def sides(spark: SparkSession, folder: Path, rows: int, keys: int) -> tuple[DataFrame, DataFrame]:
    """Events with eight numbers each, and prices; times are spread over a year."""

    def some_time(seed: int) -> Column:
        micros = F.pmod(F.xxhash64("id", F.lit(seed)), F.lit(YEAR_MICROS))
        return F.timestamp_micros(F.lit(NEW_YEAR_MICROS) + micros)

    numbers = [(F.col("id") * n).cast("double").alias(f"x{n}") for n in range(8)]
    product = F.pmod(F.xxhash64("id", F.lit(1)), F.lit(keys)).alias("product")
    events = spark.range(rows).select("id", product, some_time(2).alias("at"), *numbers)
    prices = spark.range(rows // RIGHT_SHARE).select(
        (F.col("id") % keys).alias("product"),
        some_time(3).alias("since"),
        F.col("id").alias("price"),
    )
    for name, frame in (("events", events), ("prices", prices)):
        frame.write.parquet(str(folder / name))
    return spark.read.parquet(str(folder / "events")), spark.read.parquet(str(folder / "prices"))


def by_window(left: DataFrame, right: DataFrame) -> DataFrame:
    """The way of stage clean."""
    return joined_as_of(left, right, JOIN, ASOF)


def by_spark(left: DataFrame, right: DataFrame) -> DataFrame:
    """Spark's sort-merge operator, which only its SQL reaches for times."""
    left.sparkSession.conf.set("spark.sql.join.asofJoin.enabled", "true")
    return left.sparkSession.sql(
        "SELECT l.*, r.price FROM {left} AS l LEFT ASOF JOIN {right} AS r"
        " MATCH_CONDITION (l.at >= r.since)"
        " ON l.product = r.product AND r.since >= l.at - INTERVAL 7 DAYS",
        left=left,
        right=right,
    )


def by_rewrite(left: DataFrame, right: DataFrame) -> DataFrame:
    """Spark's default plan of `_joinAsOf`."""
    return left._joinAsOf(  # noqa: SLF001 (there is no public name)
        right,
        left["at"],
        right["since"],
        on=left["product"] == right["product"],
        how="left",
        tolerance=F.expr("INTERVAL 7 DAYS"),
    ).drop(right["product"], "since")


WAYS: dict[str, Callable[[DataFrame, DataFrame], DataFrame]] = {
    "window": by_window,
    "spark": by_spark,
    "rewrite": by_rewrite,
}


def cpu_seconds() -> float:
    """Of the JVM that this process started."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return float(sum(each.user + each.system for each in times))


def measure(way: str, left: DataFrame, right: DataFrame) -> dict[str, object]:
    """Reads every column of every joined row; of two runs the second counts, the first is cold."""
    for _ in range(2):
        frame = WAYS[way](left, right)
        started, before = time.monotonic(), cpu_seconds()
        checked = F.sum(F.xxhash64(*left.columns, "price") % 1_000_003)
        answer = frame.agg(F.count("*"), F.count("price"), checked).first()
        seconds, cpu = time.monotonic() - started, cpu_seconds() - before
        if cpu > 60:
            break  # a slow way is not warmed up
    return {
        "way": way,
        "seconds": round(seconds, 1),
        "cpu": round(cpu, 1),
        "answer": tuple(answer or ()),
    }


def main() -> None:
    """Prints a line for each way and number of keys, then all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, nargs="+", default=[20_000, 1_000, 200])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["window", "spark"])
    given = parser.parse_args()
    spark = spark_session("asof", "local[2]")
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for keys in given.keys:
            left, right = sides(spark, Path(folder) / str(keys), given.rows, keys)
            for way in given.ways:
                one = {"rows": given.rows, "keys": keys, **measure(way, left, right)}
                print(*(f"{name} {value}" for name, value in one.items()), sep="  ", flush=True)
                found.append(one)
            if len({one["answer"] for one in found if one["keys"] == keys}) != 1:
                sys.exit("the ways disagree")
    print(json.dumps({"benchmark": "asof", "found": found}))


if __name__ == "__main__":
    main()
