"""Claim: a column of 10,000,000 ids is fitted and transformed in bounded memory.

A vocabulary of some words is a constant of the plan; a larger one is a table that is joined. Both
ways are measured, so that the bound between them (`pipeline.features.fit.INLINE_WORDS`) is seen to
be where they cost alike. Each reading has a Spark of its own, `local[2]`, whose JVM is driver and
executor at once. One word has a quarter of the rows.

usage: python benchmarks/vocabulary.py [--words 10000 100000 ...] [--rows-per-word 2]
           [--ways inline stored] [--encoding vocabulary] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `benchmarks`

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.loading.measure import told_by
from benchmarks.scaling.memory import ROLES, Watch, reading
from pipeline.config import Features
from pipeline.features import fit as fitting
from pipeline.features.prepared import SPLIT, TRAIN, prepared
from pipeline.features.transform import features
from pipeline.features.vocabularies import Vocabularies, words_of
from pipeline.lake import Lake
from pipeline.session import spark_session

WAYS = {"inline": sys.maxsize, "stored": 0}
"""Way -> the most words that a spec holds."""


def clean_rows(spark: SparkSession, words: int, rows: int) -> DataFrame:
    """Rows with exactly so many words: each once, then one in half of the rows, any in the others.

    Args:
        spark: The session.
        words: Number of distinct ones.
        rows: Number of rows.
    """
    number = F.col("id")
    any_word = F.pmod(F.xxhash64(number), F.lit(words))
    word = F.when(number < words, number).when(number % 2 == 0, 0).otherwise(any_word)
    return spark.range(rows).select(
        number,
        F.format_string("user-%010d", word).alias("user"),
        (F.pmod(F.xxhash64(number, F.lit(1)), F.lit(2))).cast("double").alias("y"),
        (number * 4 / rows).cast("int").cast("string").alias("period"),
    )


def described(encoding: str) -> Features:
    """One column, all words, all rows in the train split."""
    return Features.model_validate(
        {
            "keys": ["id"],
            "label": {"name": "label", "expression": "y"},
            "splits": {"train": "true", "validation": "false", "test": "false"},
            "leakage": ["y"],
            "categorical": {"user": {"encoding": encoding, "minimum_count": 1}},
        }
    )


def measured(folder: Path, words: int, rows: int, way: str, encoding: str) -> dict[str, Any]:
    """Seconds and peaks of the fit and of the transform, which writes what it makes."""
    spark = spark_session("vocabulary", "local[2]")
    spark.sparkContext.setLogLevel("ERROR")
    fitting.INLINE_WORDS = WAYS[way]
    how, lake = described(encoding), Lake(folder / "lake")
    raw = str(folder / "clean")
    clean_rows(spark, words, rows).write.parquet(raw)
    found: dict[str, Any] = {}
    with Watch(folder) as watch:
        frame = prepared(spark.read.parquet(raw), how)
        with reading(watch, found, "fit"):
            train = frame.where(F.col(SPLIT) == TRAIN)
            spec = fitting.fit(train, how, "vocabulary", "period", Vocabularies(lake, "run"))
        with reading(watch, found, "transform"):
            made = features(frame, spec, words_of=partial(words_of, spark, lake))
            made.write.parquet(str(folder / "features"))
    written = spark.read.parquet(str(folder / "features"))
    column = spec.feature_columns[0]
    [told] = written.agg(F.count("*"), F.count_distinct(column), F.min(column)).collect()
    spark.stop()
    if told[0] != rows:
        raise SystemExit(f"{rows} rows became {told[0]}")
    if encoding == "vocabulary" and (told[1], told[2]) != (words, 2):
        raise SystemExit(f"{words} words became {told[1]} ids from {told[2]} on")
    return found


def benchmark(given: argparse.Namespace) -> None:
    """Measures all sizes both ways; prints a table and a JSON line."""
    names = ("words", "rows", "way", "step", "seconds", "CPU s", "JVM MB", "Py MB")
    print("{:>11} {:>11} {:7} {:10} {:>8} {:>8} {:>7} {:>6}".format(*names))
    told: dict[str, object] = {"benchmark": "vocabulary", "encoding": given.encoding}
    for words in given.words:
        rows = words * given.rows_per_word if given.rows is None else given.rows
        for way in given.ways:
            with tempfile.TemporaryDirectory(prefix="words-", dir=given.folder) as folder:
                arguments = [folder, str(words), str(rows), way, given.encoding]
                found = told_by(__file__, "--one", *arguments)
            for step, each in found.items():
                jvm, python = (each[role] for role in ROLES[:2])
                print(
                    f"{words:11,} {rows:11,} {way:7} {step:10} {each['seconds']:8.1f} "
                    f"{each['cpu_seconds']:8.1f} {jvm:7.0f} {python:6.0f}",
                    flush=True,
                )
                told[f"{step}_{way}_{words}"] = {k: round(v, 1) for k, v in each.items()}
    print(json.dumps(told))


def main() -> None:
    """Measures, and prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--words", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rows", type=int, help="of every size, instead of --rows-per-word")
    parser.add_argument("--rows-per-word", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--encoding", default="vocabulary")
    parser.add_argument("--folder", type=Path, help="where rows and tables go; removed afterwards")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)  # how this script calls itself
    given = parser.parse_args()
    if given.one:
        logging.disable(logging.WARNING)
        folder, words, rows, way, encoding = given.one
        print(json.dumps(measured(Path(folder), int(words), int(rows), way, encoding)))
        return
    benchmark(given)


if __name__ == "__main__":
    main()
