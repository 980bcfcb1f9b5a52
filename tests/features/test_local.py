"""Derived columns without Spark: what agrees is used, what does not is named."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipeline.config import Features
from pipeline.errors import RowError, SpecError
from pipeline.features.agreement import apart
from pipeline.features.arrow import features_of
from pipeline.features.duck import UntranslatableError, translated
from pipeline.features.fit import fit
from pipeline.features.local import Local, LocalTransform
from pipeline.features.prepared import SPLIT, TRAIN, prepared
from pipeline.features.proof import needed_expressions, proven
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake

CLEAN = (
    "id bigint, a int, b int, x double, price decimal(10,2), s string, day date, "
    "at timestamp, raw binary, period string"
)


def rows(count: int = 200) -> list[tuple[Any, ...]]:
    return [
        (
            n,
            None if n % 11 == 3 else n * 37 % 101 - 50,
            n % 7 - 3,
            None if n % 5 == 2 else n / 3,
            Decimal(n) / 4,
            None if n % 9 == 4 else f"{'AB'[n % 2]}-{n % 13}",
            dt.date(2024, 1, 1) + dt.timedelta(days=n),
            dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=997 * n),
            b"\xe9%d" % n,
            "p",
        )
        for n in range(count)
    ]


def described(derive: dict[str, str], **sections: Any) -> Features:
    return Features.model_validate(
        {
            "keys": ["id"],
            "label": {"name": "even", "expression": "id % 2 = 0"},
            "splits": {"train": "id % 3 < 2", "validation": "id % 3 = 2", "test": "false"},
            "leakage": [],
            "derive": derive,
            **sections,
        }
    )


def looked_at(
    spark: SparkSession, derive: dict[str, str], **sections: Any
) -> tuple[FeatureSpec, Local]:
    how = described(derive, **sections)
    clean = spark.createDataFrame(rows(), CLEAN)
    spec = fit(prepared(clean, how).where(f"{SPLIT} = '{TRAIN}'"), how, "local", "period")
    return spec, proven(clean, 200, spec, Lake("nowhere"))


AGREE = {
    "whole": "a DIV 7 * 60 + a % 7",
    "never_negative": "pmod(a, 7)",
    "by_zero": "a / b",
    "modulo_zero": "a % b",
    "weekday": "dayofweek(day)",
    "other_weekday": "weekday(day)",
    "minute": "hour(at) * 60 + minute(at)",
    "moved": "dayofyear(day + INTERVAL 3 DAY)",
    "log": "ln(x - 10)",
    "total": "price * 3",
    "sum": "whole + never_negative",
    "size": "size(split(s, '-'))",
    "if_null": "coalesce(x, 0) + if(a > 0, 1, 2)",
    "parsed": "try_cast(substring(s, 3, 2) AS int)",
    "too_large": "a * 2147483647",
    "root": "sqrt(x - 10)",
    "matches": "s RLIKE '^A-1'",
    "between": "datediff(day, to_date('2024-03-01'))",
    "cut_off": "cast(x AS int)",
    "cut_off_decimal": "cast(price AS int)",
    "whole_text": "cast(coalesce(right(s, 1), s) AS bigint)",
    "text_number": "cast(right(s, 1) AS double)",
    "twice": "cast(cast(substring(s, 3) AS double) AS int)",
    "down": "floor(x)",
    "up": "ceil(x)",
    "sign": "sign(x)",
    "within": "size(split(upper(s), upper('a')))",
    "logs": "round(ln(x))",
}


def test_what_both_compute_alike_is_used(spark: SparkSession) -> None:
    numeric = {name: {"indicator": True, "scale": "none"} for name in AGREE}
    texts = {
        "joined": "concat(s, '/', b)",
        "month": "date_format(at, 'yyyy-MM')",
        "large": "upper(s)",
        "small": "lower(s)",
    }
    categories: dict[str, Any] = {name: {"minimum_count": 2} for name in texts}
    derive = {**AGREE, **texts}
    spec, local = looked_at(spark, derive, numeric=numeric, categorical=categories)
    assert local.spark_only is None
    assert local.rows > 200
    transform = LocalTransform(spec, local)
    assert set(transform.given.names) == {"a", "b", "x", "price", "s", "day", "at"}
    held = pa.Table.from_pylist(
        [
            dict(zip([part.split()[0] for part in CLEAN.split(", ")], row, strict=True))
            for row in rows()
        ]
    )
    made = transform.features(held)
    assert made.num_rows == 200
    assert made["num_never_negative"].to_pylist()[:3] == [(n * 37 % 101 - 50) % 7 for n in range(3)]


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("crc32(s)", "crc32"),
        ("length(decode(raw, 'ISO-8859-1'))", "ISO-8859-1"),
        ("xxhash64(s)", "xxhash64"),
        ("length(format_number(x, 2))", "format_number"),
        # No row of the table shows these: strange ones do.
        ("if(initcap(s) = 'Ος', 1, 0)", "to Spark and"),
        ("length(cast(x as string))", "1e+17"),
        ("length(upper(round(x, 2)))", "differs for some values"),
        # Both have a function of that name; it is another one.
        ("instr(s, 'A') + ascii(substring(s, 0, 1))", "to Spark and"),
    ],
)
def test_what_they_do_not_is_for_spark_only(
    spark: SparkSession, expression: str, told: str
) -> None:
    spec, local = looked_at(spark, {"odd": expression}, numeric={"odd": {"scale": "none"}})
    assert local.spark_only is not None
    assert local.spark_only.startswith(f"derive.odd: {expression!r}")
    assert told in local.spark_only
    with pytest.raises(SpecError, match="is for Spark only"):
        LocalTransform(spec, local)


def test_a_row_that_differs_is_told(spark: SparkSession) -> None:
    # Spark counts characters from 1 and takes 0 for 1; DuckDB takes it for the one before.
    _, local = looked_at(
        spark, {"odd": "length(substring(s, 0, 2))"}, numeric={"odd": {"scale": "none"}}
    )
    assert local.spark_only is not None
    assert "is 2 to Spark and 1 without it for {'s': " in local.spark_only


def test_values_of_sensitive_columns_are_not_told(spark: SparkSession) -> None:
    how = described({"odd": "length(substring(s, 0, 2))"}, numeric={"odd": {"scale": "none"}})
    clean = spark.createDataFrame(rows(), CLEAN)
    spec = fit(prepared(clean, how).where(f"{SPLIT} = '{TRAIN}'"), how, "local", "period")
    local = proven(clean, 200, spec, Lake("nowhere"), {"odd"}.__contains__)
    assert local.spark_only == "derive.odd (values withheld, a sensitive column is used)"


def test_columns_that_no_feature_needs_do_not_matter(spark: SparkSession) -> None:
    derive = {"odd": "crc32(s)", "twice": "a * 2", "odder": "odd + 1"}
    spec, local = looked_at(spark, derive, numeric={"twice": {"scale": "none"}})
    assert needed_expressions(spec) == {"twice": "a * 2"}
    assert local.spark_only is None
    assert LocalTransform(spec, local).given.names == ["a"]


def test_a_type_that_only_spark_has_ends_nothing(spark: SparkSession) -> None:
    derive = {"span": "at - timestamp'2024-01-01'", "hours": "extract(HOUR FROM span)"}
    _, local = looked_at(spark, derive, numeric={"hours": {"scale": "none"}})
    assert local.spark_only is not None


def test_without_derived_columns_it_is_the_plain_transform(spark: SparkSession) -> None:
    spec, local = looked_at(spark, {}, numeric={"x": {}}, categorical={"s": {"minimum_count": 1}})
    given = pa.table({"x": [1.0, None], "s": ["A-0", None], "more": [1, 2]})
    assert LocalTransform(spec, local).features(given).equals(features_of(given, spec))
    assert Local.model_validate_json(local.model_dump_json()) == local


def test_an_artifact_reads_no_file(spark: SparkSession) -> None:
    spec, local = looked_at(spark, {"twice": "a * 2"}, numeric={"twice": {"scale": "none"}})
    evil = "(SELECT count(*) FROM read_text('/etc/hostname'))"
    changed = local.model_copy(update={"expressions": {"twice": evil}})
    with pytest.raises(SpecError, match="cannot be evaluated"):
        LocalTransform(spec, changed).features(pa.table({"a": pa.array([1], pa.int32())}))


def test_values_that_the_type_does_not_hold_are_refused(spark: SparkSession) -> None:
    spec, local = looked_at(spark, {}, numeric={"a": {}})
    with pytest.raises(RowError, match=r"^field a: cannot be int32"):
        LocalTransform(spec, local).features(pa.table({"a": [2**40]}))
    with pytest.raises(RowError, match=r"^field a: cannot be int32"):
        LocalTransform(spec, local).features(pa.table({"a": [1.5]}))
    with pytest.raises(RowError, match=r"^field a: is missing; given are b"):
        LocalTransform(spec, local).features(pa.table({"b": [1]}))


UNLIKE_FOR_SOME_VALUES = ["round(x, 2)", "shiftleft(i, 2)"]


@pytest.mark.parametrize("text", ["1 +", "(a", "decode(raw, 'UTF-16')", *UNLIKE_FOR_SOME_VALUES])
def test_what_cannot_be_translated_is_refused(text: str) -> None:
    with pytest.raises(UntranslatableError):
        translated(text)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_units_in_the_last_place_are_counted(kind: pa.DataType) -> None:
    dtype = kind.to_pandas_dtype()
    one = np.array([1.0, -0.0, 1.0, np.nan, np.nan, 1.0, np.inf], dtype)
    other = np.array([np.nextafter(dtype(1), dtype(2)), 0.0, -1.0, np.nan, 1.0, 1.0, np.inf], dtype)
    found = apart(
        pa.array(one, mask=np.array([False] * 5 + [True, False])), pa.array(other, kind)
    ).tolist()
    assert found[:2] == [1, 1]
    assert found[2] > 2**30
    assert found[3] == 0
    assert found[4:6] == [2**64 - 1, 2**64 - 1]
    assert found[6] == 0
