"""Walks a pipeline whose lake is in a store, with Spark reaching it by tests/webhdfs.py.

A process of its own: Spark's Python workers have the environment that its JVM was started with.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from pipeline.config import load_pipeline
from pipeline.errors import EnvironmentFault
from pipeline.lake import Lake
from pipeline.operate.walk import Asked, walk
from pipeline.session import spark_session
from tests.flights import FLIGHTS


def main(gateway: dict[str, str], settings: list[str]) -> None:
    pipeline = load_pipeline(FLIGHTS, settings)
    lake = Lake.of(pipeline)
    store = lake.hadoop
    assert store is not None
    try:
        spark_session("without", "local[2]", [store])
    except EnvironmentFault as fault:
        print("refused", fault, flush=True)  # noqa: T201 (the test reads it)
    own = {f"spark.hadoop.{name}": value for name, value in gateway.items()}
    reached = replace(store, filesystem=gateway["fs.s3a.impl"], settings={**store.settings, **own})
    spark = spark_session("with", "local[2]", [reached])
    try:
        for asked in (Asked(), Asked()):
            for outcome in walk(spark, pipeline, lake, asked=asked):
                told = {
                    name: getattr(outcome, name)
                    for name in ("stage", "rows_in", "rows_out", "unchanged")
                }
                print("outcome", json.dumps(told), flush=True)  # noqa: T201
    finally:
        spark.stop()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
