"""Histories against loops in plain Python, and over a real lake: never ahead, and never behind."""

from __future__ import annotations

import itertools
import math
import random
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from pipeline.clean.increment import clean_increment
from pipeline.config import History, Pipeline
from pipeline.config.histories import Aggregate
from pipeline.errors import ConfigError, LeakageError, SpecError
from pipeline.features.fit import fit
from pipeline.features.histories import with_histories
from pipeline.features.prepared import prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import ensure_features, featurize, follow
from pipeline.lake import Lake
from tests.clean import examples as lakes
from tests.features import examples
from tests.features import history_oracle as oracle

VALUES: dict[str, oracle.Value] = {
    "x": lambda row: row["x"],
    "n": lambda row: row["n"],
    "s": lambda row: row["s"],
    "n * 2": lambda row: None if row["n"] is None else row["n"] * 2,
}
MEASURED = {
    "sum": "x",
    "mean": "x",
    "std": "n",
    "min": "x",
    "max": "n * 2",
    "last": "s",
    "distinct": "s",
    "count": "x",
}


class Kind(NamedTuple):
    """A type of time, and how a small number becomes a time of it."""

    spark: str
    over: str | int
    window: Any
    make: Any
    later: str


def _instant(number: int, zone: Any) -> datetime:
    # Every third lies a microsecond off the edges of windows.
    return datetime(2024, 2, 28, 6, tzinfo=zone) + timedelta(
        hours=12 * number, microseconds=(number % 3 == 2) - (number % 5 == 4)
    )


KINDS = {
    "timestamp": Kind(
        "timestamp", "36 hours", timedelta(hours=36), lambda n: _instant(n, UTC), "t + interval {}"
    ),
    "timestamp_ntz": Kind(
        "timestamp_ntz", "2 days", timedelta(days=2), lambda n: _instant(n, None), ""
    ),
    "date": Kind(
        "date", "3 days", timedelta(days=3), lambda n: date(2024, 2, 27) + timedelta(days=n), ""
    ),
    "int": Kind("int", 3, 3, lambda n: n - 2, ""),
    "bigint": Kind("bigint", 3, 3, lambda n: 2**61 + n, ""),
}


def described(kind: Kind, *, known: bool) -> History:
    """All aggregates over everything, a time and rows; lags and sequences."""
    aggregates: dict[str, Any] = {}
    for over in (None, kind.over, "3 rows"):
        end = {None: "", kind.over: "_time", "3 rows": "_rows"}[over]
        for how, of in MEASURED.items():
            aggregates[how + end] = {"how": how, "of": of, "over": over}
        aggregates["events" + end] = {"how": "count", "over": over}
        aggregates["ago" + end] = {"how": "time_since_last", "over": over}
        aggregates["ago_s" + end] = {"how": "time_since_last", "of": "s", "over": over}
    return History.model_validate(
        {
            "entity": ["who"],
            "time": "t",
            "known_at": "later" if known else None,
            "order": ["id"],
            "aggregates": aggregates,
            "lags": {"one": {"of": "x"}, "three": {"of": "s", "rows": 3}},
            "sequences": {
                "xs": {"of": "x", "rows": 4},
                "texts": {"of": "s", "rows": 2},
                "ages": {"how": "age", "rows": 3},
            },
        }
    )


def wanted(rows: list[dict[str, Any]], history: History, kind: Kind) -> dict[int, dict[str, Any]]:
    known_at = None if history.known_at is None else (lambda row: row["later"])
    windows = {None: None, kind.over: kind.window, "3 rows": "3"}
    made = {}
    for row in rows:
        seen = oracle.seen_by(rows, row, known_at=known_at)
        made[row["id"]] = {
            **{
                name: oracle.aggregate(
                    row, seen, how.how, VALUES[how.of] if how.of else None, windows[how.over]
                )
                for name, how in history.aggregates.items()
            },
            **{
                name: oracle.lag(seen, VALUES[how.of], how.rows)
                for name, how in history.lags.items()
            },
            **{
                name: oracle.sequence(row, seen, VALUES[how.of] if how.of else None, how.rows)
                for name, how in history.sequences.items()
            },
        }
    return made


def frame(spark: SparkSession, rows: list[dict[str, Any]], kind: Kind) -> DataFrame:
    columns = f"id int, who string, t {kind.spark}, later {kind.spark}, x double, n int, s string"
    names = ("id", "who", "t", "later", "x", "n", "s")
    return spark.createDataFrame([tuple(row[name] for name in names) for row in rows], columns)


def made(rows: DataFrame, histories: Mapping[str, History]) -> dict[int, dict[str, Any]]:
    frame = with_histories(rows, histories, [])
    return {row["id"]: row.asDict() for row in frame.collect()}


def same(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float | int):
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return bool(found == expected)


small = st.integers(0, 7)
event = st.fixed_dictionaries(
    {
        "who": st.sampled_from(["a", "a", "a", "b", None]),
        "t": small | small | st.none(),
        "later": small | small | st.none(),
        "x": st.integers(-8, 8).map(lambda n: n / 4)
        | st.sampled_from([None, math.nan, math.inf, -0.0]),
        "n": st.integers(-3, 3) | st.none(),
        "s": st.sampled_from(["", "p", "q", None]),
    }
)


@pytest.mark.parametrize("known", [False, True])
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kind=st.sampled_from(sorted(KINDS)), drawn=st.lists(event, min_size=15, max_size=60))
def test_every_output_is_what_a_loop_over_earlier_events_gives(
    spark: SparkSession, known: bool, kind: str, drawn: list[dict[str, Any]]
) -> None:
    how = KINDS[kind]
    rows = [
        {
            **row,
            "id": number,
            **{name: None if row[name] is None else how.make(row[name]) for name in ("t", "later")},
        }
        for number, row in enumerate(drawn)
    ]
    history = described(how, known=known)
    found, expected = made(frame(spark, rows, how), {"h": history}), wanted(rows, history, how)
    assert len(found) == len(rows)
    for number, outputs in expected.items():
        for name, value in outputs.items():
            assert same(found[number][f"h_{name}"], value), (name, rows[number], value, found)


@pytest.mark.parametrize("known", [False, True])
def test_an_event_exactly_as_old_as_the_window_counts(spark: SparkSession, known: bool) -> None:
    """Few events a customer, whose distances are the window's length and one more or less."""
    kind = KINDS["int"]
    distances = itertools.product((2, 3, 4), (2, 3, 4), (1, 3))
    times = [(f"customer {n}", t) for n, gaps in enumerate(distances) for t in (0, *sums(gaps))]
    rows = [
        {"id": n, "who": who, "t": t, "later": t + 1, "x": t / 4, "n": t, "s": "s"}
        for n, (who, t) in enumerate(times)
    ]
    history = described(kind, known=known)
    found, expected = made(frame(spark, rows, kind), {"h": history}), wanted(rows, history, kind)
    for number, outputs in expected.items():
        for name, value in outputs.items():
            assert same(found[number][f"h_{name}"], value), (name, rows[number], value)


def sums(gaps: Iterable[int]) -> Iterable[int]:
    return itertools.accumulate(gaps)


# --- Sums of any numbers: rounded alike, whatever comes later and wherever rows lie.


def some_events(count: int, seed: int, first: int = 0) -> list[dict[str, Any]]:
    drawn = random.Random(seed)  # noqa: S311
    return [
        {
            "id": first + number,
            "who": drawn.choice("aaab"),
            "t": first // 2 + number // 3,  # ties
            "later": first // 2 + number // 3 + drawn.randrange(5),
            "x": drawn.lognormvariate(0, 3),
            "n": drawn.randrange(9),
            "s": drawn.choice("pqrs"),
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("known", [False, True])
def test_later_rows_and_the_own_value_change_nothing(spark: SparkSession, known: bool) -> None:
    kind = KINDS["int"]
    history = {"h": described(kind, known=known)}
    rows = some_events(150, seed=1)
    before = made(frame(spark, rows, kind), history)
    later = [{**row, "t": row["t"] + 1000} for row in some_events(400, seed=2, first=150)]
    after = made(frame(spark, rows + later, kind), history)
    assert {number: after[number] for number in before} == before

    last = max(rows, key=lambda row: (row["t"], row["id"]))
    changed = [{**row, "x": -1.0, "n": -1, "s": "z"} if row is last else row for row in rows]
    again = made(frame(spark, changed, kind), history)
    kept = [name for name in before[0] if name.startswith("h_")]
    assert [again[last["id"]][name] for name in kept] == [before[last["id"]][name] for name in kept]
    assert again != before


@pytest.mark.parametrize("known", [False, True])
def test_results_do_not_depend_on_where_rows_lie(spark: SparkSession, known: bool) -> None:
    kind = KINDS["int"]
    # Without an order of ties, their values give one.
    history = {"h": described(kind, known=known).model_copy(update={"order": ()})}
    rows = some_events(300, seed=3)
    first = made(frame(spark, rows, kind).coalesce(1), history)
    random.Random(4).shuffle(rows)  # noqa: S311
    assert made(frame(spark, rows, kind).repartition(7), history) == first


def plan_of(frame: DataFrame) -> str:
    return str(frame._jdf.queryExecution().executedPlan().toString())


def test_all_histories_of_an_entity_share_one_shuffle_and_need_few_sorts(
    spark: SparkSession,
) -> None:
    kind = KINDS["timestamp"]
    rows = frame(spark, [], kind)
    plain = History.model_validate(
        {
            "entity": ["who"],
            "time": "t",
            "aggregates": {
                "sum": {"how": "sum", "of": "x"},
                "last": {"how": "last", "of": "s"},
                "mean": {"how": "mean", "of": "x", "over": "5 rows"},
            },
            "lags": {"one": {"of": "x"}},
            "sequences": {"xs": {"of": "x", "rows": 20}},
        }
    )
    plan = plan_of(with_histories(rows, {"h": plain}, []))
    assert (plan.count("Exchange "), plan.count("Sort ")) == (1, 1)
    assert "BatchEvalPython" not in plan
    total, mean = ({"how": how, "of": "x", "over": "30 days"} for how in ("sum", "mean"))
    moving = plain.model_copy(
        update={"aggregates": {"s": Aggregate(**total), "m": Aggregate(**mean)}}
    )
    plan = plan_of(with_histories(rows, {"h": moving}, []))
    assert (plan.count("Exchange "), plan.count("Sort ")) == (1, 3)
    several = {"h": plain, "g": described(kind, known=True), "k": described(kind, known=False)}
    assert plan_of(with_histories(rows, several, [])).count("Exchange ") == 1


# --- What is refused.

HISTORY: dict[str, Any] = {
    "entity": ["place"],
    "time": "id",
    "aggregates": {"total": {"how": "sum", "of": "amount"}},
}


def total(**changes: Any) -> dict[str, Any]:
    return {**HISTORY, "aggregates": {"total": {**HISTORY["aggregates"]["total"], **changes}}}


@pytest.mark.parametrize(
    ("history", "error", "told"),
    [
        (total(of="delay"), LeakageError, r"h\.total\.of: 'delay' uses .* set known_at"),
        ({**HISTORY, "time": "delay"}, LeakageError, r"h\.time: 'delay' uses"),
        ({**HISTORY, "entity": ["delay"]}, LeakageError, r"h\.entity: 'delay' is listed"),
        ({**HISTORY, "order": ["delay"]}, LeakageError, r"h\.order: 'delay' is listed"),
        ({**HISTORY, "entity": ["nobody"]}, SpecError, r"'nobody' is no column of clean"),
        ({**HISTORY, "time": "amount"}, SpecError, r"is double, no time to order by"),
        ({**HISTORY, "time": "sum(id)"}, SpecError, "is not a function of one row"),
        ({**HISTORY, "known_at": "amount"}, SpecError, r"known_at: is double, and time is int"),
        (total(of="place"), SpecError, r"h\.total: 'place' is string, no number"),
        (total(of="array(1)", how="last"), SpecError, r"'array\(1\)' is array<int>"),
        (total(over="7 days"), SpecError, r"over: is '7 days', and the history's time is int"),
        (
            {**total(over="36 hours"), "time": "DATE'2024-01-01'"},
            SpecError,
            "a date has no hours",
        ),
        ({**total(over=7), "time": "DATE'2024-01-01'"}, SpecError, "time is date"),
    ],
)
def test_a_history_that_looks_ahead_or_does_not_fit_is_named(
    spark: SparkSession, history: dict[str, Any], error: type[SpecError], told: str
) -> None:
    how = examples.described(histories={"h": history}, cyclic={}, derive={})
    with pytest.raises(error, match=told):
        prepared(examples.frame(spark, []), how)


@pytest.mark.parametrize(
    ("history", "told"),
    [
        (total(how="mean", of=None), "`of` is missing: mean of what"),
        (total(over="5 lightyears"), "'5 lightyears' is no time"),
        (total(over="0 rows"), "holds no event"),
        (total(over=f"{2**31} rows"), "is more than 2,147,483,647 rows"),
        ({**HISTORY, "lags": {"far": {"of": "id", "rows": 2**31}}}, "less than or equal to 21474"),
        ({**HISTORY, "sequences": {"s": {"of": "id", "rows": 2**31}}}, "less than or equal to 2"),
        (total(over=2.5), "no whole number"),
        (total(over=2**62), "no whole number below"),
        ({**HISTORY, "aggregates": {}}, "no output"),
        ({**HISTORY, "lags": {"total": {"of": "id"}}}, "two outputs 'total'"),
        ({**HISTORY, "entity": ["pl*"]}, "is a pattern"),
        ({**HISTORY, "sequences": {"s": {"rows": 3}}}, "give `of` for values"),
        ({**HISTORY, "sequences": {"s": {"rows": 3, "how": "age", "of": "id"}}}, "leave it out"),
    ],
)
def test_a_description_that_says_nothing_is_refused(history: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        History.model_validate(history)


def test_names_of_columns_are_checked_with_the_whole_description(tmp_path: Path) -> None:
    def load(histories: dict[str, Any], **changes: Any) -> Pipeline:
        return lakes.pipeline(
            tmp_path, {"features.histories": histories, "features.numeric": {}, **changes}
        )

    named = load({"h": HISTORY}, **{"features.numeric": {"h_total": {}}})
    assert "histories" in named.features.model_dump()
    with pytest.raises(ConfigError, match=r"no column 'h_totl'; did you mean h_total"):
        load({"h": HISTORY}, **{"features.numeric": {"h_totl": {}}})
    with pytest.raises(ConfigError, match=r"histories\.h\.entity: there is no column 'plac'"):
        load({"h": {**HISTORY, "entity": ["plac"]}})
    other = {**HISTORY, "aggregates": {"b_total": {"how": "count"}}}
    with pytest.raises(ConfigError, match=r"'a_b_total' exists already"):
        load({"a": other, "a_b": HISTORY})
    by_total = {"by": "hash", "columns": ["h_total"], "validation": 0.1, "test": 0.1}
    divided = load(
        {"h": HISTORY}, **{"features.splits": by_total, "features.entities": ["h_total"]}
    )
    assert divided.features.entities == ("h_total",)
    columns = {**lakes.BASE["source"]["columns"], "place": {"type": "string", "sensitive": True}}
    hidden = {**HISTORY, "entity": ["id"], "aggregates": {"last": {"how": "last", "of": "place"}}}
    derive = {"again": "upper(h_last)"}
    shown = load({"h": hidden}, **{"source.columns": columns, "features.derive": derive})
    assert shown.is_sensitive_feature("again")
    assert not shown.is_sensitive_feature("amount")


# --- In the whole: as features, in the spec, over a lake that grows.


def test_histories_are_columns_for_labels_to_come_and_stay_in_the_spec(
    spark: SparkSession,
) -> None:
    late = {
        "entity": ["place"],
        "time": "id",
        "known_at": "id + 3",
        "aggregates": {"delay": {"how": "mean", "of": "delay", "over": 50}},
        "sequences": {"delays": {"of": "delay", "rows": 5}},
    }
    how = examples.described(
        histories={"h": late},
        derive={"twice": "h_delay * 2", "day": "id % 7"},
        numeric={"twice": {"scale": "none"}, "h_delay": {"scale": "none"}},
        series={"h_delays": {"longest": 3}},
    )
    rows = [examples.clean_row(number) for number in range(1, 41)]
    ready = prepared(examples.frame(spark, rows), how)
    (row,) = ready.where("id = 20").collect()
    # Events of place `a` whose value is known before 20: those up to 16.
    seen = [each["delay"] for each in rows if each["place"] == "a" and each["id"] + 3 < 20]
    assert row["h_delay"] == sum(seen) / len(seen)
    assert row["h_delays"] == seen[-5:]
    assert row["twice"] == 2 * row["h_delay"]
    spec = fit(ready, how, "small", "period")
    assert FeatureSpec.from_json(spec.to_json()) == spec
    assert spec.histories == how.histories
    without = spec.model_copy(update={"histories": {}})
    assert "histories" not in without.model_dump()
    assert without.hash != spec.hash
    assert "histories" not in examples.described().model_dump()


SHOPS = pa.schema(
    [
        ("id", pa.int64()),
        ("month", pa.int64()),
        ("who", pa.string()),
        ("t", pa.int64()),
        ("amount", pa.float64()),
        ("delay", pa.float64()),
        ("version", pa.int64()),
    ]
)
SHOP_CHANGES: dict[str, Any] = {
    "source.columns": {
        "id": {"type": "bigint", "required": True},
        "month": {"type": "int", "required": True},
        "who": {"type": "string"},
        "t": {"type": "bigint"},
        "amount": {"type": "double"},
        "delay": {"type": "double"},
        "version": {"type": "int"},
    },
    "clean.dedupe": {"keys": ["id"], "latest_by": ["version"]},
    "features.splits": {"train": "month <= 2", "validation": "month = 3", "test": "month >= 4"},
    "features.histories": {
        "h": {
            "entity": ["who"],
            "time": "t",
            "order": ["id"],
            "aggregates": {
                "sum": {"how": "sum", "of": "amount"},
                "mean": {"how": "mean", "of": "amount", "over": 40},
                "kinds": {"how": "distinct", "of": "floor(amount)", "over": 30},
            },
            "sequences": {"last": {"of": "amount", "rows": 4}},
        },
        "late": {
            "entity": ["who"],
            "time": "t",
            "known_at": "t + CAST(delay AS BIGINT)",
            "lags": {"delay": {"of": "delay"}},
        },
        "month": {"entity": ["month"], "time": "t", "aggregates": {"rows": {"how": "count"}}},
    },
    "features.numeric": {
        name: {"scale": "none"}
        for name in ("h_sum", "h_mean", "h_kinds", "late_delay", "month_rows")
    },
    "features.categorical": {},
    "features.series": {"h_last": {}},
    "train.model": {"family": "rnn"},
}


def shop_rows(
    first: int, count: int, month: int, who: str = "abc", **changes: Any
) -> list[dict[str, Any]]:
    drawn = random.Random(first)  # noqa: S311
    return [
        {
            "id": number,
            "month": month,
            "who": drawn.choice([*who, None]) if len(who) > 1 else who,
            "t": 100 * month + drawn.randrange(60),
            "amount": drawn.lognormvariate(0, 2),
            "delay": float(drawn.randrange(30)),
            "version": 1,
            **changes,
        }
        for number in range(first, first + count)
    ]


def by_period(lake: Lake, spec: FeatureSpec) -> dict[str | None, set[str]]:
    files: dict[str | None, set[str]] = {}
    for file in lake.table(spec.table).snapshot().files:
        files.setdefault(file.partition["period"], set()).add(file.path)
    return files


def features_of(spark: SparkSession, pipeline: Pipeline, lake: Lake, spec: FeatureSpec, copy: Path):
    """The table of a spec as a full run over the present `clean` makes it."""
    full = Lake(copy)
    shutil.copytree(lake.table("clean").root, full.table("clean").root)
    table, _ = ensure_features(spark, pipeline, full, spec, full.table("clean").snapshot())
    return pl.read_delta(table.root).sort("id")


LATER = {"2013-02", "2013-03", "2013-04"}
CORRECTED = next(row for row in shop_rows(200, 30, 2) if row["who"] == "b")
LATE = ("late", shop_rows(150, 1, 1, "a", t=101), {"2013-01", *LATER})
CORRECTION = ("corrected", [{**CORRECTED, "amount": 1e3, "version": 2}], LATER)
BOTH = ("both", [*LATE[1], *CORRECTION[1]], LATE[2])
STEPS = [
    ("new_month", shop_rows(400, 30, 4), set()),
    LATE,
    ("alone", shop_rows(500, 3, 2, "z", t=299), set()),
    CORRECTION,
    ("vacuumed", [{**CORRECTED, "amount": 1.0, "version": 3}], {"2013-01", *LATER}),
]


@pytest.mark.parametrize(
    ("months", "steps"),
    [((1, 2, 3, 4), [BOTH]), pytest.param((1, 2, 3), STEPS, marks=pytest.mark.long)],
    ids=["late and corrected", "all"],
)
def test_an_increment_gives_what_a_full_run_gives(
    spark: SparkSession,
    tmp_path: Path,
    months: tuple[int, ...],
    steps: list[tuple[str, list[dict[str, Any]], set[str]]],
) -> None:
    """Rows that come later, come late, and are corrected, and periods that are made anew."""
    for month in months:
        rows = shop_rows(100 * month, 30, month)
        lakes.write_raw(tmp_path / "raw" / f"{month}.parquet", rows, SHOPS)
    pipeline = lakes.pipeline(tmp_path, SHOP_CHANGES)
    lake = Lake(pipeline.lake)
    clean_increment(spark, pipeline, lake)
    _, spec = featurize(spark, pipeline, lake)
    for name, rows, remade in steps:
        before = by_period(lake, spec)
        lakes.write_raw(tmp_path / "raw" / f"{name}.parquet", rows, SHOPS)
        clean_increment(spark, pipeline, lake)
        if name == "vacuumed":
            _delete_files_of_older_versions(lake)
        assert not follow(spark, pipeline, lake, spec).unchanged
        after = by_period(lake, spec)
        assert {each for each in before if not before[each] <= after[each]} == remade, name
        found = pl.read_delta(lake.table(spec.table).root).sort("id")
        assert found["id"].to_list() == sorted(lakes.table(lake, "clean")["id"].to_list())
        expected = features_of(spark, pipeline, lake, spec, tmp_path / name)
        assert found.equals(expected.select(found.columns)), name
    assert follow(spark, pipeline, lake, spec).unchanged


def _delete_files_of_older_versions(lake: Lake) -> None:
    table = lake.table("clean")
    kept = {str(Path(uri).resolve()) for uri in table.snapshot().uris()}
    for path in Path(table.root).rglob("*.parquet"):
        if "_delta_log" not in path.parts and str(path.resolve()) not in kept:
            path.unlink()


def test_the_example_of_the_documentation_is_a_description() -> None:
    text = (Path(__file__).parents[2] / "docs" / "histories.md").read_text()
    block = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    for history in block["features"]["histories"].values():
        assert History.model_validate(history).outputs
