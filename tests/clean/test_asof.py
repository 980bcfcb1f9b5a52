"""Point-in-time joins against plain Python, and through the whole stage against Polars."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.clean.asof import joined_as_of
from pipeline.clean.increment import clean_increment
from pipeline.clean.joins import require_joinable, right_side
from pipeline.clean.stage import clean
from pipeline.config import Join, Pipeline
from pipeline.errors import ConfigError, JoinError
from pipeline.lake import Lake
from tests.clean import examples

DAY = timedelta(days=1)
NEW_YEAR = datetime(2013, 1, 1, tzinfo=UTC)
MOMENTS = [
    NEW_YEAR + n * DAY + timedelta(microseconds=micros)
    for n in (0, 1, 7, 8, 14, 15)
    for micros in (0, 1)
]
# Type of both times, values at each other's edges, a tolerance, and what Python makes of it.
KINDS: dict[str, tuple[list[Any], Any, Any]] = {
    "date": (
        [date.min, *(moment.date() for moment in MOMENTS[::2]), date.max],
        "191 hours",  # not quite eight days
        7 * DAY,
    ),
    "timestamp": (MOMENTS, "7 days", 7 * DAY),
    "timestamp_ntz": ([moment.replace(tzinfo=None) for moment in MOMENTS], "7 days", 7 * DAY),
    "int": ([-(2**31), -(2**31) + 1, 0, 1, 5, 6, 2**31 - 1], 5, 5),
    "bigint": ([-(2**63), 0, 3, 6, 10, 2**63 - 4, 2**63 - 1], 3, 3),
    "double": ([-float("inf"), -1e308, -0.0, 0.0, 0.5, 1.0, 1e308, float("inf")], 0.5, 0.5),
    "decimal(10,2)": (
        [Decimal(text) for text in ("-0.1", "0", "0.1", "0.2", "0.31")],
        0.1,
        Decimal("0.1"),
    ),
}


def some_rows(random: Random, count: int, times: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows of either side: key, number, time; so many that all kinds of neighbours meet."""

    def often(values: Sequence[Any]) -> Any:
        return random.choice(values) if random.random() < 0.9 else None

    return [(often("aab"), often([1, 1, 2]), often(times)) for _ in range(count)]


def described(kind: str, tolerance: Any) -> Join:
    return Join.model_validate(
        {
            "path": "prices",
            "on": {"place": "where", "number": "number"},
            "asof": {"left": "at", "right": "since", "tolerance": tolerance},
            "columns": {
                "where": {"type": "string"},
                "number": {"type": "int"},
                "since": {"type": kind},
                "price": {"type": "int"},
            },
            # `place` and `at` are names of the left side's columns, too.
            "select": {"price": "price", "since": "since"},
        }
    )


def right(spark: SparkSession, rows: Sequence[tuple[Any, ...]], join: Join) -> DataFrame:
    kind = join.columns["since"].type
    stored = spark.createDataFrame(
        list(rows), f"where string, number int, since {kind}, price int"
    ).withColumns(
        {
            "_source_file": F.lit("f"),
            "_source_position": F.lit(0),
            "_malformed": F.lit(None).cast("string"),
        }
    )
    return right_side([stored], join)


def foretold(
    events: Sequence[tuple[Any, ...]], states: Sequence[tuple[Any, ...]], tolerance: Any
) -> list[int | None]:
    """The price of each event, by plain Python."""
    known: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
    for where, number, since, price in states:
        known[where, number].append((since, price))
    found: list[int | None] = []
    for where, number, at in events:
        history = sorted(known[where, number]) if None not in (where, number, at) else []
        place = bisect_right([since for since, _ in history], at)
        since, price = history[place - 1] if place else (None, None)
        too_old = tolerance is not None and place and since != at and at - since > tolerance
        found.append(None if too_old else price)
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32), bounded=st.booleans())
@example(seed=1, bounded=True)
@example(seed=2, bounded=False)
def test_every_event_finds_what_plain_python_foretells(
    spark: SparkSession, kind: str, *, seed: int, bounded: bool
) -> None:
    random = Random(seed)  # noqa: S311 (no secret)
    times, spelt, tolerance = KINDS[kind]
    events, history = some_rows(random, 150, times), some_rows(random, 14, times)
    if not bounded:
        spelt = tolerance = None
    states = [(*row, price) for price, row in enumerate(history)]
    join = described(kind, spelt)
    assert join.asof is not None
    left = spark.createDataFrame(
        [(*row, uid) for uid, row in enumerate(events)] * 2,  # every row twice
        f"place string, number int, at {kind}, uid int",
    )
    ties = Counter(row[:3] for row in states if None not in row)
    if ties and max(ties.values()) > 1:
        with pytest.raises(JoinError, match=rf"asof: .* holds {max(ties.values())} rows with "):
            require_joinable(left, right(spark, states, join), join, "prices")
        states = list({row[:3]: row for row in states}.values())
    side = right(spark, states, join)
    require_joinable(left, side, join, "prices")
    rows = joined_as_of(left, side, join, join.asof).select("place", "number", "uid", "price")
    prices = foretold(events, [row for row in states if None not in row], tolerance)
    wanted = zip(events, prices, strict=True)
    assert Counter(map(tuple, rows.collect())) == {
        (event[0], event[1], uid, price): 2 for uid, (event, price) in enumerate(wanted)
    }


def test_whole_rows_with_times_at_the_edges(spark: SparkSession) -> None:
    join = described("date", "7 days")
    assert join.asof is not None
    first = date(2013, 1, 1)
    side = right(spark, [("a", 1, first, 1), ("a", 1, date(2013, 2, 1), 2)], join)
    days = [-1, 0, 7, 8, 30, 31, 32]
    rows = [("a", 1, {"x": n}, first + n * DAY) for n in days] + [("a", 1, None, first)] * 2
    left = spark.createDataFrame(rows, "place string, number int, `a.map` map<string,int>, at date")
    joined = joined_as_of(left, side, join, join.asof)
    assert joined.columns == ["place", "number", "a.map", "at", "price", "since"]
    second = date(2013, 2, 1)
    found = [(None, None), (1, first), (1, first), (None, None), (None, None), (2, second)]
    found += [(2, second), (1, first), (1, first)]
    wanted = [(*row, *more) for row, more in zip(rows, found, strict=True)]
    assert sorted(map(tuple, joined.collect()), key=repr) == sorted(wanted, key=repr)


def test_what_the_right_side_learns_later_changes_nothing(spark: SparkSession) -> None:
    join = described("timestamp", None)
    assert join.asof is not None
    left = spark.createDataFrame(
        [("a", 1, moment) for moment in MOMENTS[:6]], "place string, number int, at timestamp"
    )
    states = [("a", 1, MOMENTS[n], n) for n in (0, 3, 5)]
    later = [("a", 1, MOMENTS[n], n) for n in (6, 8, 11)]
    one, other = (
        joined_as_of(left, right(spark, rows, join), join, join.asof).collect()
        for rows in (states, states + later)
    )
    assert Counter(one) == Counter(other)
    assert [row["price"] for row in sorted(one)] == [0, 0, 0, 3, 3, 5]


def test_rows_that_cannot_match_are_spread_over_the_tasks(spark: SparkSession) -> None:
    join = described("int", None)
    assert join.asof is not None
    left = spark.range(2_000).select(
        F.lit(None).cast("string").alias("place"), F.lit(1).alias("number"), F.lit(1).alias("at"),
        "id",
    )  # fmt: skip
    partitions = str(spark.conf.get("spark.sql.shuffle.partitions"))
    spark.conf.set("spark.sql.shuffle.partitions", "8")
    spark.conf.set("spark.sql.adaptive.enabled", "false")  # it would merge the small partitions
    try:
        joined = joined_as_of(left, right(spark, [("a", 1, 1, 1)], join), join, join.asof)
        shares = joined.groupBy(F.spark_partition_id()).agg(
            F.count("id").alias("rows"), F.count("price").alias("priced")
        )
        found = shares.collect()
    finally:
        spark.conf.unset("spark.sql.adaptive.enabled")
        spark.conf.set("spark.sql.shuffle.partitions", partitions)
    assert (sum(row["rows"] for row in found), sum(row["priced"] for row in found)) == (2_000, 0)
    assert max(row["rows"] for row in found) < 500


@pytest.mark.parametrize("tolerance", [0, 1e-30, 0.019, 2**63 - 1])
@pytest.mark.parametrize("kind", ["decimal(5,2)", "decimal(38,20)"])
def test_any_tolerance_fits_a_decimal(spark: SparkSession, kind: str, tolerance: float) -> None:
    join = described(kind, tolerance)
    assert join.asof is not None
    side = right(spark, [("a", 1, Decimal(0), 7)], join)
    ages = ["0", "0.01", "0.02", "999.99"]
    left = spark.createDataFrame(
        [("a", 1, Decimal(age)) for age in ages], f"place string, number int, at {kind}"
    )
    found = sorted(joined_as_of(left, side, join, join.asof).select("at", "price").collect())
    wanted = [7 if Decimal(age) <= Decimal(str(tolerance)) else None for age in ages]
    assert [row["price"] for row in found] == wanted


# The whole stage.

RAW = examples.RAW.append(pa.field("at", pa.timestamp("us", tz="UTC")))
SIDE = pa.schema(
    [("name", pa.string()), ("since", pa.timestamp("us", tz="UTC")), ("price", pa.float64())]
)
PRICES: dict[str, Any] = {
    "on": {"place": "name"},
    "asof": {"left": "at", "right": "since", "tolerance": "36 hours"},
    "columns": {
        "name": {"type": "string"},
        "since": {"type": "timestamp"},
        "price": {"type": "double"},
    },
    "select": {"price": "price", "priced_at": "since"},
}


def changes(root: Path, **others: Any) -> dict[str, Any]:
    columns = {**examples.BASE["source"]["columns"], "at": {"type": "timestamp"}}
    return {
        "source.columns": columns,
        "features.keys": "auto",  # some events are there twice
        "clean.rules": {
            "amount_is_small": {"check": "amount < 5", "action": "quarantine"},
            "place_is_not_c": {"check": "place IS NULL OR place <> 'c'", "action": "drop"},
        },
        "clean.joins": {"prices": {**PRICES, "path": str(root / "side"), **others}},
    }


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Events an hour apart; some without a place, some without a time, some twice."""
    made = []
    for row in examples.some_rows(first, count, 1):
        number = row["id"]
        at = NEW_YEAR + timedelta(hours=number) if number % 11 else None
        made.append({**row, "at": at, "place": row["place"] if number % 7 else None})
    return made + made[:5]


def prices(hours: Mapping[str, Sequence[int]], factor: float = 1.0) -> list[dict[str, Any]]:
    return [
        {"name": name, "since": NEW_YEAR + timedelta(hours=hour), "price": factor * hour}
        for name, listed in hours.items()
        for hour in listed
    ]


HOURS = {"a": [3, 50, 51, 140], "b": [0, 36, 100]}


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Pipeline, Lake]:
    examples.write_raw(tmp_path / "raw" / "1.parquet", rows(0, 150), RAW)
    nameless = [{"name": None, "since": NEW_YEAR, "price": 1.0}] * 2
    timeless = [{"name": "a", "since": None, "price": 1.0}] * 2
    states = [*prices(HOURS), *nameless, *timeless]
    examples.write_raw(tmp_path / "side" / "1.parquet", states, SIDE)
    pipeline = examples.pipeline(tmp_path, changes(tmp_path))
    return tmp_path, pipeline, Lake(pipeline.lake)


def by_polars(root: Path) -> pl.DataFrame:
    """What `clean` should hold, by another engine."""
    raw = pl.read_parquet(root / "raw" / "*.parquet")
    raw = raw.filter(pl.col("amount") < 5, pl.col("place").is_null() | (pl.col("place") != "c"))
    side = pl.read_parquet(root / "side" / "*.parquet").drop_nulls()
    timed = raw.filter(pl.col("at").is_not_null()).sort("at")
    found = timed.join_asof(
        side.rename({"since": "priced_at"}).sort("priced_at"),
        left_on="at",
        right_on="priced_at",
        by_left="place",
        by_right="name",
        tolerance="36h",
        coalesce=False,
        check_sortedness=False,
    )
    untimed = raw.filter(pl.col("at").is_null())
    columns = [*RAW.names, "price", "priced_at"]
    return pl.concat([found, untimed], how="diagonal").select(columns)


def counted(frame: pl.DataFrame) -> Counter[tuple[object, ...]]:
    return Counter(frame.select([*RAW.names, "price", "priced_at"]).iter_rows())


def test_the_stage_joins_by_time_and_loses_no_row(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    done = clean(spark, pipeline, lake)
    assert done.rows_in == 155 == done.rows_out + done.rows_quarantined + done.rows_dropped
    assert min(done.rows_out, done.rows_quarantined, done.rows_dropped) > 10
    table = examples.table(lake, "clean")
    assert table.height == done.rows_out
    assert counted(table) == counted(by_polars(root))
    found = table["price"].drop_nulls()
    assert 10 < len(found) < table.height - 10
    assert clean(spark, pipeline, lake).unchanged


def test_two_right_rows_of_one_time_are_refused(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    examples.write_raw(root / "side" / "2.parquet", prices({"a": [50]}, factor=2.0), SIDE)
    with pytest.raises(
        JoinError, match=r"prices\.asof: .* 2 rows with name=a, since=2013-01-03 02:00:00: which"
    ):
        clean(spark, pipeline, lake)
    assert not lake.table("clean").exists


def test_increments_keep_what_they_found_until_a_rebuild(
    spark: SparkSession, small: tuple[Path, Pipeline, Lake]
) -> None:
    root, pipeline, lake = small
    clean_increment(spark, pipeline, lake)
    first = counted(examples.table(lake, "clean"))
    assert first == counted(by_polars(root))
    examples.write_raw(root / "side" / "1.parquet", prices(HOURS, factor=10.0), SIDE)
    assert clean_increment(spark, pipeline, lake).unchanged
    examples.write_raw(root / "raw" / "2.parquet", rows(20, 30), RAW)
    corrected = counted(by_polars(root))
    clean_increment(spark, pipeline, lake)
    both = counted(examples.table(lake, "clean"))
    assert first <= both
    new = both - first
    assert new.total() + first.total() == corrected.total()
    assert new <= corrected
    assert both != corrected
    clean_increment(spark, pipeline, lake, rebuild=True)
    assert counted(examples.table(lake, "clean")) == corrected


def test_rows_of_a_period_that_is_written_again_keep_what_they_found(
    spark: SparkSession, tmp_path: Path
) -> None:
    asof = {"left": "at", "right": "since"}
    settings = {
        **changes(tmp_path, asof=asof),
        "clean.dedupe": {"keys": ["id"], "latest_by": ["delay"]},
    }
    pipeline = examples.pipeline(tmp_path, settings)
    lake = Lake(pipeline.lake)

    def deliver(name: str, ids: Sequence[int], delay: float, price: float) -> dict[int, float]:
        delivered = [
            {"id": n, "month": 1, "amount": 1.0, "delay": delay, "place": "a", "at": NEW_YEAR}
            for n in ids
        ]
        examples.write_raw(tmp_path / "raw" / f"{name}.parquet", delivered, RAW)
        side = [{"name": "a", "since": NEW_YEAR, "price": price}]
        examples.write_raw(tmp_path / "side" / "1.parquet", side, SIDE)
        clean_increment(spark, pipeline, lake)
        return dict(examples.table(lake, "clean").select("id", "price").iter_rows())

    assert deliver("1", [1, 2, 3], 0.0, 10.0) == {1: 10.0, 2: 10.0, 3: 10.0}
    assert deliver("2", [2], 1.0, 20.0) == {1: 10.0, 2: 20.0, 3: 10.0}


@pytest.mark.parametrize(
    ("asof", "told"),
    [
        ({"left": "when"}, r"clean\.joins\.prices\.asof\.left: there is no column 'when'"),
        ({"right": "sinc"}, r"asof\.right: there is no column 'sinc'; did you mean since\?"),
        ({"left": "place"}, r"asof\.left: 'place' is string, no time and no number"),
        ({"right": "name"}, r"asof\.right: 'name' is string, no time and no number"),
        ({"left": "month"}, r"asof\.tolerance: 'month' is int, so the tolerance is a number"),
        ({"left": "month", "tolerance": None}, r"'month' is int and 'since' is timestamp; give"),
        ({"tolerance": 7}, r"asof\.tolerance: 'since' is timestamp, so the tolerance is a time"),
        ({"tolerance": "7"}, r"asof\.tolerance: '7' is no time; write .* `7 days`"),
        ({"tolerance": "-7 days"}, r"asof\.tolerance: '-7 days' is no time"),
        ({"tolerance": "2 months"}, r"'2 months' is no time; .* hours, days, weeks"),
        ({"tolerance": f"{10**30} days"}, r"is longer than 1,000,000 days"),
        ({"tolerance": -1}, r"asof\.tolerance: -1 is negative"),
        ({"tolerance": True}, r"asof\.tolerance: True is no time"),
        ({"tolerence": "7 days"}, r"asof\.tolerence: unknown setting\. Did you mean tolerance\?"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(tmp_path: Path, asof: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        examples.pipeline(tmp_path, changes(tmp_path, asof={**PRICES["asof"], **asof}))


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7 days", 604_800), ("1 week", 604_800), ("36 hours", 129_600), ("1 millisecond", 0.001)],
)
def test_a_description_with_a_tolerance_can_be_dumped_and_loaded(
    tmp_path: Path, given: str, seconds: float
) -> None:
    asof = {**PRICES["asof"], "tolerance": given}
    pipeline = examples.pipeline(tmp_path, changes(tmp_path, asof=asof))
    described = pipeline.clean.joins["prices"].asof
    assert described is not None
    assert described.tolerance == timedelta(seconds=seconds)
    assert Pipeline.model_validate(pipeline.model_dump(mode="json")) == pipeline


def test_a_join_without_times_is_dumped_as_before(tmp_path: Path) -> None:
    pipeline = examples.pipeline(tmp_path, changes(tmp_path, asof=None))
    assert "asof" not in pipeline.model_dump(mode="json")["clean"]["joins"]["prices"]
