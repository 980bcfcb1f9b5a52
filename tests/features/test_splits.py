"""Splits by a method, against an oracle in plain Python that shares no code with them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.clean.stage import clean
from pipeline.config import SpecSplits, Splits
from pipeline.config.splits import threshold
from pipeline.errors import ConfigError, SpecError
from pipeline.features.prepared import SPLIT, prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.splits import split_of
from pipeline.features.stage import featurize
from pipeline.lake import Lake
from tests.clean import examples
from tests.features import examples as rows_of_clean

SHARES = {"validation": 0.2, "test": 0.1}
CHANGES = {"features.label": {"name": "late", "expression": "delay > 15"}}


def method(**described: Any) -> Any:
    return TypeAdapter[Any](SpecSplits).validate_python(described)


def splits_in(frame: DataFrame, splits: Any, keys: tuple[str, ...] = ("id",)) -> list[str]:
    """The split of each row, in the order of `id`."""
    split = split_of(frame, splits, keys, [])
    return [row[0] for row in frame.select(split.alias("s"), "id").orderBy("id").collect()]


def drawn(seed: int, *values: str, validation: float, test: float) -> str:
    """The formula of the docstring, as anybody may write it."""
    text = "|".join([str(seed), *values])
    share = int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:13], 16) / 16**13
    return "test" if share < test else "validation" if share < test + validation else "train"


def written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.hex().upper()
    return "0.0" if value == 0 and isinstance(value, float) else str(value)


VALUES = "name string, whole bigint, part double, flag boolean, day date, raw binary"
rows = st.tuples(
    st.none() | st.text(max_size=6),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.integers(-4000, 4000).map(lambda n: n / 4) | st.just(-0.0),
    st.none() | st.booleans(),
    st.none() | st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    st.none() | st.binary(max_size=5),
)
NAMES = [part.split()[0] for part in VALUES.split(", ")]


@settings(max_examples=12, deadline=None)
@given(
    some=st.lists(rows, min_size=1, max_size=40),
    columns=st.permutations(NAMES).flatmap(
        lambda names: st.integers(1, len(names)).map(lambda n: names[:n])
    ),
    seed=st.integers(0, 2**31 - 1),
    shares=st.tuples(st.floats(0, 0.49), st.floats(0, 0.5)),
)
def test_anybody_can_recompute_a_hash(
    spark: SparkSession, some: list[Any], columns: list[str], seed: int, shares: tuple[float, float]
) -> None:
    validation, test = shares
    splits = method(by="hash", columns=columns, seed=seed, validation=validation, test=test)
    frame = spark.createDataFrame(
        [(place, *row) for place, row in enumerate(some)], f"id int, {VALUES}"
    )
    wanted = []
    for row in some:
        texts = [written(dict(zip(NAMES, row, strict=True))[name]) for name in columns]
        wanted.append(drawn(seed, *texts, validation=validation, test=test))
    assert splits_in(frame, splits) == wanted


@given(share=st.floats(0, 1, exclude_max=True), digits=st.integers(0, 16**13 - 1))
def test_a_threshold_as_text_divides_like_the_share(share: float, digits: int) -> None:
    text = f"{digits:013x}" + "f" * 19
    edge = max(int(share * 16**13) - 1, 0)
    assert (text < threshold(share)) == (digits / 16**13 < share)
    for near in range(edge, min(edge + 3, 16**13 - 1)):
        assert (f"{near:013x}" + "0" * 19 < threshold(share)) == (near / 16**13 < share)


def test_the_width_of_a_type_does_not_matter(spark: SparkSession) -> None:
    frame = spark.range(300).select(F.col("id"), F.col("id").cast("int").alias("narrow"))
    frame = frame.withColumn("text", F.col("id").cast("string"))
    one, *others = (
        splits_in(frame, method(by="hash", columns=[name], **SHARES))
        for name in ("id", "narrow", "text")
    )
    assert others == [one, one]
    assert set(one) == {"train", "validation", "test"}


def chi_square(observed: dict[str, int], shares: dict[str, float]) -> float:
    total = sum(observed.values())
    return sum((observed.get(n, 0) - total * p) ** 2 / (total * p) for n, p in shares.items())


def test_draws_are_uniform_and_seeds_are_draws_of_their_own(spark: SparkSession) -> None:
    shares = {"train": 0.7, "validation": 0.2, "test": 0.1}
    kinds = {  # keys as they come: in a row, in steps, all of one beginning
        "id": F.col("id"),
        "step": F.col("id") * 1024,
        "text": F.format_string("customer-%08d", F.col("id")),
    }
    frame = spark.range(20_000)
    columns: dict[str, Column] = {}
    for name, kind in kinds.items():
        keyed = frame.withColumn("key", kind)
        for seed in (0, 1, 7):
            splits = method(by="random", seed=seed, **SHARES)
            # Bound to no frame: the key's expression stands in its place.
            split = split_of(keyed, splits, ("key",), [])
            columns[f"{name} {seed}"] = split
            counted = {
                r["s"]: r["count"] for r in keyed.groupBy(split.alias("s")).count().collect()
            }
            # Three shares: two degrees of freedom, and one sample of 20,000 exceeds 18.4.
            assert chi_square(counted, shares) < 18.4, (name, seed)
    pairs = frame.withColumn("key", F.col("id")).select(
        columns["id 0"].alias("a"), columns["id 7"].alias("b")
    )
    both = {f"{r['a']} {r['b']}": r["count"] for r in pairs.groupBy("a", "b").count().collect()}
    independent = {f"{a} {b}": p * q for a, p in shares.items() for b, q in shares.items()}
    assert chi_square(both, independent) < 31.8  # eight degrees, one in 10,000


@pytest.mark.parametrize(
    "described",
    [
        {"by": "random", "seed": 7, **SHARES},
        {"by": "hash", "columns": ["month", "place"], **SHARES},
        {"by": "group", "column": "place", **SHARES},
        {"by": "stratified", **SHARES},
        {"by": "time", "column": "period", "validation": "2013-03", "test": "2013-05"},
    ],
)
def test_other_rows_and_partitions_move_no_row(
    spark: SparkSession, described: dict[str, Any]
) -> None:
    how = rows_of_clean.described(splits=described)
    few = [rows_of_clean.clean_row(number) for number in range(100)]
    more = [*few, *(rows_of_clean.clean_row(number) for number in range(1000, 1200))]
    more.sort(key=lambda row: row["id"] % 17)
    alone = prepared(rows_of_clean.frame(spark, few), how)
    among = prepared(rows_of_clean.frame(spark, more).repartition(7, "amount"), how)
    splits = [{r["id"]: r[SPLIT] for r in f.select("id", SPLIT).collect()} for f in (alone, among)]
    assert {number: splits[1][number] for number in splits[0]} == splits[0]
    assert len(set(splits[1].values())) > 1


def test_no_group_is_in_two_splits_and_rows_without_one_are_alone(spark: SparkSession) -> None:
    frame = spark.range(4000).select(
        "id", F.when(F.col("id") % 4 > 0, F.col("id") % 50).alias("customer")
    )
    splits = method(by="group", column="customer", seed=5, **SHARES)
    split = split_of(frame, splits, ("id",), []).alias("s")
    rows = frame.select("id", "customer", split).collect()
    for row in rows:
        own = row["id"] if row["customer"] is None else row["customer"]
        assert row["s"] == drawn(5, str(own), **SHARES)
    sides: dict[int, set[str]] = {}
    for row in rows:
        if row["customer"] is not None:
            sides.setdefault(row["customer"], set()).add(row["s"])
    assert {len(side) for side in sides.values()} == {1}
    alone = Counter(row["s"] for row in rows if row["customer"] is None)
    assert 70 < alone["test"] < 130


DAY = timedelta(days=1)
SECOND = timedelta(microseconds=1)
FIRST, LAST = datetime(2001, 5, 1), datetime(2001, 6, 1)  # noqa: DTZ001
TIMES: dict[str, Any] = {
    "date": (date(2001, 5, 1), date(2001, 6, 1), date(2001, 7, 1), DAY, 7 * DAY, "7 days"),
    "timestamp": (FIRST, LAST, LAST + 30 * DAY, SECOND, 36 * 3600 * 10**6 * SECOND, "36 hours"),
    "timestamp_ntz": (FIRST, LAST, LAST + 30 * DAY, SECOND, 7 * DAY, "7 days"),
    "int": (5, 8, 11, 1, 2, 2),
    "double": (5.0, 8.0, 11.0, 0.25, 1.5, 1.5),
    "decimal(6,2)": (Decimal(5), Decimal(8), Decimal(11), Decimal("0.01"), Decimal(2), 2),
}


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("kind", TIMES)
def test_borders_in_time(spark: SparkSession, kind: str, end: bool) -> None:
    """Each border itself, the values next to it, those around the gap, null and NaN."""
    validation, test, last, step, gap, told = TIMES[kind]
    edges = [validation, test, last, validation - gap, test - gap]
    values = [value for edge in edges for value in (edge - step, edge, edge + step)]
    wanted = []
    for value in values:
        split = "train" if value < validation - gap else "rest"
        if validation <= value < test - gap:
            split = "validation"
        if value >= test:
            split = "rest" if end and value >= last else "test"
        wanted.append(split)
    texts: list[str | None] = [str(value) for value in values]
    texts, wanted = [*texts, None], [*wanted, "rest"]
    if kind == "double":
        texts, wanted = [*texts, "NaN"], [*wanted, "rest"]
    frame = spark.createDataFrame(list(enumerate(texts)), "id int, text string")
    frame = frame.select("id", F.col("text").cast(kind).alias("at"))
    described = {"validation": str(validation), "test": str(test), "gap": told}
    splits = method(by="time", column="at", **described, end=str(last) if end else None)
    assert splits_in(frame, splits) == wanted
    assert set(wanted) == {"train", "validation", "test", "rest"}


def test_a_text_is_a_time_and_an_offset_counts(spark: SparkSession) -> None:
    texts = ["2001-04", "2001-05", "2001-05-31", "2001-06", "2001-07", None]
    frame = spark.createDataFrame(list(enumerate(texts)), "id int, at string")
    splits = method(by="time", column="at", validation="2001-05", test="2001-06", end="2001-07")
    wanted = ["train", "validation", "validation", "test", "rest", "rest"]
    assert splits_in(frame, splits) == wanted
    hours = [f"2001-05-{day}:00:00Z" for day in ("31T21", "31T22", "31T23")]
    frame = spark.createDataFrame(list(enumerate(hours)), "id int, at string")
    frame = frame.select("id", F.col("at").cast("timestamp").alias("at"))
    splits = method(by="time", column="at", validation="2001", test="2001-06-01T00:00:00+02:00")
    assert splits_in(frame, splits) == ["validation", "test", "test"]


@pytest.mark.parametrize(
    ("described", "told"),
    [
        ({"by": "time", "column": "later", "validation": 1, "test": 2}, "no column 'later'"),
        ({"by": "time", "column": "delay", "validation": 1, "test": 2}, "no column 'delay'"),
        ({"by": "time", "column": "whole", "validation": "May", "test": "Mayb"}, "is no number"),
        ({"by": "time", "column": "flag", "validation": 1, "test": 2}, "it is boolean"),
    ],
)
def test_what_only_spark_can_tell_is_told(
    spark: SparkSession, described: dict[str, Any], told: str
) -> None:
    """Derived columns have no type before Spark gives them one; leakage is not to be seen."""
    derive = {"whole": "id % 7", "flag": "id > 3", "day": "id % 7"}
    frame = rows_of_clean.frame(spark, [])
    how = rows_of_clean.described(derive=derive).model_copy(update={"splits": method(**described)})
    with pytest.raises(SpecError, match=r"^features\.splits") as caught:
        prepared(frame, how)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"by": "hsh"}, "or `by:` and one of time, hash, group, stratified, random"),
        ("random", "write three conditions"),
        ({"train": "true", "test": "true"}, "features.splits.validation: is missing"),
        ({"by": "hash", "colums": ["id"], "columns": ["id"], **SHARES}, "Did you mean columns?"),
        ({"by": "hash", "columns": [], **SHARES}, "features.splits.columns: "),
        ({"by": "hash", "columns": ["mont"], **SHARES}, "no column 'mont'; did you mean month?"),
        ({"by": "group", "column": "delay", **SHARES}, "'delay' is listed under leakage"),
        ({"by": "random", "validation": 0.5, "test": 0.5}, "leave no rows to train"),
        ({"by": "random", "validation": -0.1, "test": 0.5}, "features.splits.validation: "),
        ({"by": "random", "seed": -1, **SHARES}, "features.splits.seed: "),
        ({"by": "stratified, fitted", "borders": {}, **SHARES}, "write three conditions"),
        ({"by": "time", "column": "month", "validation": "May", "test": "June"}, "is not after"),
        ({"by": "time", "column": "month", "validation": "a", "test": "b"}, "'a' is no number"),
        (
            {"by": "time", "column": "month", "validation": 9, "test": 10, "gap": "1 day"},
            "it is int, so the gap is a number",
        ),
        ({"by": "time", "column": "month", "validation": 9, "test": 10, "gap": 1}, "gap leaves"),
        ({"by": "time", "column": "month", "validation": 9, "test": 12, "end": 11}, "end '11'"),
        ({"by": "time", "column": "place", "validation": "a", "test": "b", "gap": 1}, "derive"),
    ],
)
def test_a_wrong_section_is_told_before_any_data_is_read(
    tmp_path: Path, splits: Any, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        examples.pipeline(tmp_path, {"features.splits": splits})
    assert told in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_value_without_few_strata_needs_an_expression(tmp_path: Path) -> None:
    label = {"task": "regression", "expression": "delay"}
    changes = {"features.label": label, "features.splits": {"by": "stratified", **SHARES}}
    with pytest.raises(ConfigError, match=r"splits\.expression is missing"):
        examples.pipeline(tmp_path, changes)


def test_conditions_are_dumped_as_ever() -> None:
    """Hashes of specs fitted before depend on it."""
    conditions = {"train": "a", "validation": "b", "test": "c"}
    old: dict[str, Any] = {
        "format": 1,
        "pipeline": "small",
        "keys": ["id"],
        "period_column": "period",
        "label": {"expression": "x"},
        "splits": conditions,
        "leakage": [],
        "derive": {},
        "numbers": [],
        "circles": [],
        "categories": [],
    }
    spec = FeatureSpec.from_json(json.dumps(old))
    assert spec.splits == Splits(**conditions)
    assert spec.model_dump(mode="json")["splits"] == conditions
    assert spec.hash == "74e0415143d6283c"


@pytest.mark.parametrize(
    "described",
    [
        {
            "by": "time",
            "column": "at",
            "validation": date(2001, 5, 1),
            "test": 2002,
            "gap": "9 days",
        },
        {"by": "hash", "columns": ["a", "b"], **SHARES},
        {"by": "group", "column": "a", "seed": 3, **SHARES},
        {"by": "stratified", "expression": "a > 1", **SHARES},
        {"by": "stratified, fitted", "borders": {"": ("0" * 13, "a" * 13)}, **SHARES},
        {"by": "random", **SHARES},
    ],
)
def test_a_method_survives_json(described: dict[str, Any]) -> None:
    splits = method(**described)
    adapter = TypeAdapter[Any](SpecSplits)
    assert adapter.validate_json(adapter.dump_json(splits)) == splits


RAW = pa.schema([*examples.RAW, ("customer", pa.int64())])


def raw_rows(first: int, count: int, month: int) -> list[dict[str, Any]]:
    """A customer has many rows; every ninth row has none."""
    return [
        {**row, "customer": None if row["id"] % 9 == 0 else row["id"] % 37}
        for row in examples.some_rows(first, count, month)
    ]


def described(root: Path, splits: dict[str, Any], **changes: Any) -> Any:
    columns = {**examples.BASE["source"]["columns"], "customer": {"type": "int"}}
    changes = {"source.columns": columns, "features.splits": splits, **changes}
    return examples.pipeline(root, {**CHANGES, **changes})


@pytest.mark.parametrize(
    "splits",
    [
        {"by": "random", "seed": 7, **SHARES},
        {"by": "group", "column": "customer", **SHARES},
    ],
)
def test_a_second_delivery_moves_no_row(
    spark: SparkSession, tmp_path: Path, splits: dict[str, Any]
) -> None:
    """Through the real stages, fitted anew; Polars reads what they wrote."""
    pipeline = described(tmp_path, splits)
    lake = Lake(pipeline.lake)
    found: list[pl.DataFrame] = []
    for month in (1, 2):
        path = tmp_path / "raw" / f"{month}.parquet"
        examples.write_raw(path, raw_rows(1000 * month, 300, month), RAW)
        clean(spark, pipeline, lake)
        _, spec = featurize(spark, pipeline, lake)
        found.append(examples.table(lake, spec.table).select("id", "split"))
    before, after = (dict(frame.iter_rows()) for frame in found)
    assert (len(before), len(after)) == (300, 600)
    assert {number: after[number] for number in before} == before
    for number, split in after.items():
        customer = None if number % 9 == 0 else number % 37
        own = customer if splits["by"] == "group" and customer is not None else number
        assert split == drawn(splits.get("seed", 0), str(own), **SHARES)
