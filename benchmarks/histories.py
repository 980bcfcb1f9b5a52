"""Claim: histories take as long as sorting the rows, however long an entity's history is.

3,000,000 events of 100,000 entities, and as many of which one entity has 300,000: aggregates over a
time and over everything, the last events, numbers of different values, and values that are known
later, each on its own; `spark` are the same aggregates over a time by Spark's own moving windows,
which read each window again for every row. CPU seconds are the JVM's: other work does not count.

usage: python benchmarks/histories.py [--rows 3000000] [--entities 100000] [--skewed 300000]
       [--only earlier moving rows distinct known spark]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `pipeline`

from pipeline.config import History
from pipeline.features.histories import with_histories
from pipeline.features.moving_windows import MEASURES
from pipeline.session import spark_session

YEAR_MICROS = 365 * 86_400 * 10**6
MONTH_MICROS = 30 * 86_400 * 10**6
NEW_YEAR_MICROS = 1_357_000_000 * 10**6
OUTPUTS: dict[str, dict[str, Any]] = {
    "earlier": {
        "aggregates": {how: {"how": how, "of": "x0"} for how in (*MEASURES, "last")}
        | {"since": {"how": "time_since_last"}}
    },
    "moving": {
        "aggregates": {how: {"how": how, "of": "x0", "over": "30 days"} for how in MEASURES}
    },
    "rows": {
        "aggregates": {"mean": {"how": "mean", "of": "x0", "over": "5 rows"}},
        "lags": {"one": {"of": "x0"}},
        "sequences": {"values": {"of": "x0", "rows": 20}, "ages": {"how": "age", "rows": 20}},
    },
    "distinct": {"aggregates": {"products": {"how": "distinct", "of": "p", "over": "90 days"}}},
    "known": {
        "known_at": "known",
        "aggregates": {"mean": {"how": "mean", "of": "x0", "over": "30 days"}},
        "lags": {"one": {"of": "x0"}},
    },
}


def events(spark: SparkSession, path: Path, rows: int, entities: int, skewed: int) -> DataFrame:
    """Events with eight numbers each over a year; the first `skewed` are of one entity."""
    micros = F.pmod(F.xxhash64("id", F.lit(2)), F.lit(YEAR_MICROS)) + F.lit(NEW_YEAR_MICROS)
    entity = F.pmod(F.xxhash64("id", F.lit(1)), F.lit(entities))
    frame = spark.range(rows).select(
        "id",
        F.when(F.col("id") < skewed, -1).otherwise(entity).alias("who"),
        F.timestamp_micros(micros).alias("t"),
        F.timestamp_micros(micros + F.lit(3_600_000_000)).alias("known"),
        F.pmod(F.xxhash64("id", F.lit(3)), F.lit(1000)).alias("p"),
        *((F.col("id") % (97 + n)).cast("double").alias(f"x{n}") for n in range(8)),
    )
    frame.write.parquet(str(path))
    return spark.read.parquet(str(path))


def jvm_seconds() -> float:
    """CPU of this process's children, of which the JVM is one."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return float(sum(each.user + each.system for each in times))


def made_of(frame: DataFrame, name: str) -> DataFrame:
    """The events with the columns of a kind of outputs; by default the events, shuffled."""
    if name in OUTPUTS:
        described = {"entity": ["who"], "time": "t", **OUTPUTS[name]}
        return with_histories(frame, {"h": History.model_validate(described)}, [])
    if name == "spark":
        rows = frame.withColumn("_at", F.unix_micros("t"))
        month = Window.partitionBy("who").orderBy("_at").rangeBetween(-MONTH_MICROS, -1)
        return rows.withColumns({how: of(F.col("x0")).over(month) for how, of in MEASURES.items()})
    return frame.repartition("who")


def measured(frame: DataFrame) -> dict[str, float]:
    """Seconds to make all columns of all rows, and to throw them away."""
    started, cpu = time.perf_counter(), jvm_seconds()
    frame.write.format("noop").mode("overwrite").save()
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(jvm_seconds() - cpu, 1),
    }


def main() -> None:
    """Prints a line for each measurement, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--skewed", type=int, default=300_000)
    parser.add_argument("--only", nargs="*", choices=[*OUTPUTS, "spark"], default=list(OUTPUTS))
    asked = parser.parse_args()
    spark = spark_session("histories", "local[2]")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for skewed in dict.fromkeys((0, asked.skewed)):
            frame = events(spark, Path(folder) / str(skewed), asked.rows, asked.entities, skewed)
            measured(made_of(frame, "shuffle"))  # warms up
            for name in ("shuffle alone", *asked.only):
                result = {"skewed": skewed, "outputs": name, **measured(made_of(frame, name))}
                results.append(result)
                print(
                    f"{skewed:>8,} rows of one entity  {name:<13} "
                    f"{result['seconds']:>6} s  {result['cpu_seconds']:>6} CPU s",
                    flush=True,
                )
    print(json.dumps({"rows": asked.rows, "results": results}))
    spark.stop()


if __name__ == "__main__":
    main()
