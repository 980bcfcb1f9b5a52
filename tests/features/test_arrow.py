"""The same features without Spark: random descriptions, fitted and applied by both."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline.config import Features
from pipeline.errors import SpecError
from pipeline.features.arrow import features_of
from pipeline.features.fit import fit
from pipeline.features.kinds import kinds
from pipeline.features.kinds.kind import Measured
from pipeline.features.kinds.moments import PARTS
from pipeline.features.prepared import SPLIT, TRAIN, prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.transform import features

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("x", pa.float64()),
        ("f", pa.float32()),
        ("i", pa.int64()),
        ("d", pa.decimal128(20, 4)),
        ("b", pa.bool_()),
        ("s", pa.string()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("clock", pa.timestamp("us")),
        ("items", pa.list_(pa.string())),
        ("numbers", pa.list_(pa.int64())),
        ("xs", pa.list_(pa.float64())),
        ("fixed", pa.list_(pa.float32())),
        ("pixels", pa.binary()),
        ("sound", pa.binary()),
        ("period", pa.string()),
    ]
)
NUMBERS = ("x", "f", "i", "d", "b")
TEXTS = [
    "",
    " ",
    "a",
    "b",
    "A b",
    "ab a B",
    "STRASSE",
    "stra\u00dfe",
    "\u0130stanbul",
    "\u03a3\u0391\u03a3",
    "\u0661\u0662",
    "\x00",
    "a|b",
    "\\N",
    "a \u2003\t b",
    "\x85 \x1c",
    "\ud55c\uae00 \ud55c",
]
EARLIEST, LATEST = dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)  # noqa: DTZ001 - a clock

# Java 17, Python and RE2 know the letters of Unicode 13, 14 and 15: what Python lacks is left out.
characters = st.characters(exclude_categories=["Cs", "Cn"])
numbers = st.floats(width=64) | st.sampled_from([0.0, -0.0, 1.0, 5e-324, 3.3e38, 3.5e38, -1e300])
rows = st.fixed_dictionaries(
    {
        "x": st.none() | numbers | st.floats(-100, 100),
        "f": st.none() | st.floats(width=32),
        "i": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5),
        "d": st.none() | st.decimals(-(10**15), 10**15, places=4),
        "b": st.none() | st.booleans(),
        "s": st.none() | st.sampled_from(TEXTS) | st.text(characters, max_size=8),
        "day": st.none() | st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31)),
        "at": st.none() | st.datetimes(EARLIEST, LATEST, timezones=st.just(dt.UTC)),
        "clock": st.none() | st.datetimes(EARLIEST, LATEST),
        "items": st.none() | st.lists(st.none() | st.sampled_from(TEXTS), max_size=6),
        "numbers": st.none() | st.lists(st.none() | st.integers(-3, 3), max_size=6),
        "xs": st.none() | st.lists(st.none() | numbers, max_size=5),
        "fixed": st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3),
        "pixels": st.binary(min_size=4, max_size=4),
        "sound": st.none() | st.binary(max_size=60).map(lambda half: half + half),
    }
)


def a_number(section: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(NUMBERS), st.fixed_dictionaries({}, optional=section))


SETTINGS: dict[str, Callable[[], st.SearchStrategy[dict[str, Any]]]] = {
    "numeric": lambda: a_number(
        {
            "scale": st.sampled_from(
                ["standard", "robust", "minmax", "log", "quantile", "clip", "none"]
            ),
            "indicator": st.booleans(),
            "impute": st.sampled_from(["mean", "median", 0.5, -3.0]),
        }
    ),
    "cyclic": lambda: st.dictionaries(
        st.sampled_from(NUMBERS), st.builds(dict, period=st.sampled_from([7.0, 24.0, 0.5]))
    ),
    "categorical": lambda: st.dictionaries(
        st.sampled_from(["s", "i", "b", "day"]),
        st.builds(dict, minimum_count=st.integers(1, 3))
        | st.builds(dict, encoding=st.just("hash"), buckets=st.sampled_from([2, 50]))
        | st.builds(dict, encoding=st.just("frequency"), minimum_count=st.integers(1, 3))
        | st.builds(
            dict,
            encoding=st.just("target"),
            minimum_count=st.integers(1, 3),
            smoothing=st.sampled_from([0.5, 20.0]),
            folds=st.integers(2, 4),
        ),
    ),
    "images": lambda: st.just({"pixels": {"shape": [2, 2]}}),
    "tokens": lambda: st.dictionaries(
        st.just("s"),
        st.builds(
            lambda encoding, units, longest: {**encoding, **units, "longest": longest},
            st.builds(dict, buckets=st.sampled_from([2, 50]))
            | st.builds(
                dict,
                encoding=st.just("vocabulary"),
                minimum_count=st.integers(1, 3),
                largest=st.sampled_from([1, 3, 100]),
            ),
            st.just({})
            | st.builds(
                dict,
                units=st.just("characters"),
                ngrams=st.sampled_from([[1, 1], [1, 3], [2, 2], [3, 5]]),
            ),
            st.integers(1, 7),
        ),
    ),
    "series": lambda: st.dictionaries(
        st.sampled_from(["xs", "fixed"]), st.builds(dict, longest=st.integers(1, 4))
    ),
    "audio": lambda: st.dictionaries(
        st.just("sound"),
        st.builds(
            dict,
            encoding=st.just("pcm16"),
            sample_rate=st.just(8000),
            frame_ms=st.sampled_from([2, 3.1]),
            hop_ms=st.just(1),
            mels=st.integers(1, 3),
            longest=st.integers(1, 4),
            scale=st.sampled_from(["standard", "none"]),
        ),
    ),
    "piecewise": lambda: a_number({"bins": st.sampled_from([1, 2, 5, 16])}),
    "buckets": lambda: st.dictionaries(
        st.sampled_from(NUMBERS),
        st.builds(dict, count=st.integers(2, 6), strategy=st.sampled_from(["quantile", "uniform"]))
        | st.builds(dict, edges=st.sampled_from([[0.0], [-2.5, -1e-9, 3.0]])),
    ),
    "vectors": lambda: st.dictionaries(
        st.just("fixed"),
        st.builds(
            dict,
            width=st.just(3),
            missing=st.sampled_from(["error", "zeros"]),
            normalize=st.booleans(),
        ),
    ),
    "bags": lambda: st.dictionaries(
        st.sampled_from(["items", "numbers"]),
        st.fixed_dictionaries(
            {"longest": st.integers(1, 4)}, optional={"buckets": st.sampled_from([2, 50])}
        )
        | st.builds(dict, minimum_count=st.integers(1, 4), longest=st.integers(1, 4)),
    ),
    "dates": lambda: st.dictionaries(
        st.sampled_from(["day", "at", "clock"]),
        st.fixed_dictionaries(
            {"parts": st.lists(st.sampled_from(["year", *PARTS]), min_size=1, unique=True)},
            optional={
                "cyclic": st.booleans(),
                "since": st.sampled_from(["2001-01-01", "day", "at", "clock"]),
                "time_zone": st.sampled_from(["Europe/Berlin", "America/St_Johns"]),
            },
        ),
    ),
    "crosses": lambda: st.dictionaries(
        st.sampled_from(["one", "two"]),
        st.builds(
            lambda columns, how: {"columns": columns, **how},
            st.lists(st.sampled_from(["s", "i", "b", "day"]), min_size=2, max_size=4, unique=True),
            st.just({}) | st.just({"buckets": 7}) | st.just({"minimum_count": 1}),
        ),
    ),
}
"""Random settings of each kind; a kind without an entry fails the test below."""


def described(sections: dict[str, Any]) -> Features:
    fallback = {} if any(sections.values()) else {"numeric": {"x": {"scale": "none"}}}
    return Features.model_validate(
        {
            "keys": ["id"],
            "label": {"name": "even", "expression": "id % 2 = 0"},
            "splits": {"train": "id % 3 < 2", "validation": "id % 3 = 2", "test": "false"},
            "leakage": [],
            **sections,
            **fallback,
        }
    )


descriptions = st.fixed_dictionaries({name: each() for name, each in SETTINGS.items()}).map(
    described
)


def table(given: list[dict[str, Any]]) -> pa.Table:
    numbered = [{"id": place, "period": "p", **row} for place, row in enumerate(given)]
    return pa.Table.from_pylist(numbered, schema=SCHEMA)


def by_both(
    spark: SparkSession, clean: pa.Table, how: Features
) -> tuple[FeatureSpec, pa.Table, pa.Table]:
    """The spec, and the features by Spark and by Arrow, in the order of `id`."""
    # PySpark takes Arrow's timestamps without a zone for instants.
    given = spark.createDataFrame(clean).withColumn("clock", F.col("clock").cast("timestamp_ntz"))
    frame = prepared(given, how)
    spec = fit(frame.where(f"{SPLIT} = '{TRAIN}'"), how, "both", "period")
    by_spark = (
        features(frame, spec).select("id", SPLIT, *spec.feature_columns).toArrow().sort_by("id")
    )
    return spec, by_spark, features_of(clean, spec)


def require_equal(spec: FeatureSpec, by_spark: pa.Table, by_arrow: pa.Table) -> None:
    served = pc.not_equal(by_spark[SPLIT], TRAIN)
    for column in spec.columns:
        one, other = by_spark[column.name].combine_chunks(), by_arrow[column.name].combine_chunks()
        if spec.parts_by_column[column.name].needs_folds:
            # Out of fold in the train split: Arrow has the value of all other rows.
            one, other = one.filter(served), other.filter(served)
        assert other.type == column.arrow_type, column
        assert not other.null_count, column
        allowed = spec.parts_by_column[column.name].ulps
        where = f"{column}, {spec.parts_by_column[column.name]}"
        if pa.types.is_list(other.type):
            assert one.value_lengths().to_pylist() == other.value_lengths().to_pylist(), where
            one, other = one.flatten(), other.flatten()
        if not pa.types.is_floating(other.type):
            assert one.to_pylist() == other.to_pylist(), where
            continue
        # The bits of floats, in the order of the numbers: a difference of 1 is one ulp.
        bits = [np.array(each, np.float32).view(np.int32).astype(np.int64) for each in (one, other)]
        ordered = [np.where(each < 0, -(2**31) - each, each) for each in bits]
        assert np.isfinite(np.array(one, np.float32)).all(), where
        assert (np.abs(ordered[0] - ordered[1]) <= allowed).all(), where


def property_test(cases: int) -> settings:
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@property_test(12)
@given(how=descriptions, given_rows=st.lists(rows, min_size=20, max_size=40))
def test_spark_and_arrow_make_the_same_features(
    spark: SparkSession, how: Features, given_rows: list[dict[str, Any]]
) -> None:
    compare(spark, how, given_rows)


@pytest.mark.long
@property_test(1000)
@given(how=descriptions, given_rows=st.lists(rows, min_size=5, max_size=60))
def test_a_thousand_descriptions_give_the_same_features(
    spark: SparkSession, how: Features, given_rows: list[dict[str, Any]]
) -> None:
    compare(spark, how, given_rows)


def compare(spark: SparkSession, how: Features, given_rows: list[dict[str, Any]]) -> None:
    try:
        spec, by_spark, by_arrow = by_both(spark, table(given_rows), how)
    except SpecError as error:
        # A column of nulls cannot be fitted.
        assert re.search("has no (value|recording.*) among", str(error))  # noqa: PT017
        return
    require_equal(spec, by_spark, by_arrow)
    again = FeatureSpec.from_json(spec.to_json())
    assert (again, again.hash) == (spec, spec.hash)
    require_equal(again, by_spark.slice(0, 0), features_of(table([]), again))


def test_every_kind_is_among_them() -> None:
    assert set(SETTINGS) == set(kinds())


def test_values_of_types_that_only_spark_writes_are_refused(spark: SparkSession) -> None:
    clean = table([{"x": 1.5}, {"x": 2.5}, {"x": 0.1}])
    how = described({"categorical": {"x": {"minimum_count": 1}}})
    with pytest.raises(SpecError, match=r"column x: is double: as a category, only Spark"):
        by_both(spark, clean, how)


def test_a_missing_column_is_named() -> None:
    ((_, name, how),) = described({"numeric": {"x": {"scale": "none"}}}).asked()
    assert name == "x"
    part = how.fitted(name, Measured(values={"values": 1}, words=(), rows=1, setting="x"))
    with pytest.raises(SpecError, match=r"^features, column x: is missing; there are f, i"):
        part.arrow({"f": pa.array([1.0]), "i": pa.array([1])})


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"numeric": {"x": {"impute": float("nan")}}}, "finite"),
        ({"numeric": {"x": {"impute": float("inf")}}}, "finite"),
        ({"cyclic": {"x": {"period": float("inf")}}}, "finite"),
        ({"categorical": {"s": {"encoding": "target", "smoothing": float("inf")}}}, "finite"),
        ({"audio": {"sound": {"sample_rate": 8000, "frame_ms": 1e9}}}, "set a shorter one"),
    ],
)
def test_numbers_that_no_feature_can_use_are_refused(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        described(section)
