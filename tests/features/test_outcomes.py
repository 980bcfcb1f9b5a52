"""Outcomes: what comes after a row, against loops in plain Python; for labels and nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import SparkSession

from pipeline.clean.increment import clean_increment
from pipeline.config.histories import LaterEvents
from pipeline.errors import ConfigError, LeakageError, SpecError
from pipeline.features.catalogue import local_of
from pipeline.features.fit import fit
from pipeline.features.histories import with_histories
from pipeline.features.prepared import prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import featurize, follow
from pipeline.lake import Lake
from tests.clean import examples as lakes
from tests.features import examples
from tests.features.test_histories import (
    KINDS,
    SHOP_CHANGES,
    SHOPS,
    Kind,
    by_period,
    event,
    features_of,
    frame,
    same,
    shop_rows,
)

Row = Mapping[str, Any]
MEASURES: dict[str, tuple[str, Callable[[list[Any]], Any]]] = {
    "count": ("n", len),
    "sum": ("n", lambda values: float(sum(values)) if values else None),
    "mean": ("n", lambda values: statistics.fmean(values) if values else None),
    "std": ("n", lambda values: statistics.pstdev(values) if values else None),
    "min": ("n", lambda values: min(values, default=None)),
    "max": ("n", lambda values: max(values, default=None)),
    "distinct": ("s", lambda values: len(set(values))),
}


def described(kind: Kind) -> LaterEvents:
    aggregates: dict[str, Any] = {}
    for name, over in (("all", None), ("time", kind.over), ("rows", "3 rows")):
        for how, (of, _) in MEASURES.items():
            aggregates[f"{how}_{name}"] = {"how": how, "of": of, "over": over}
        aggregates[f"events_{name}"] = {"how": "count", "over": over}
        aggregates[f"last_{name}"] = {"how": "last", "of": "s", "over": over}
        aggregates[f"time_since_last_{name}"] = {"how": "time_since_last", "over": over}
    return LaterEvents.model_validate(
        {"entity": ["who"], "time": "t", "order": ["id"], "aggregates": aggregates}
    )


def wanted(rows: Sequence[Row], row: Row, kind: Kind) -> dict[str, Any]:
    """Every output of a row, from the events after it: the nearest first."""
    known = row["who"] is not None and row["t"] is not None
    later = [
        each
        for each in rows
        if known and each["who"] == row["who"] and each["t"] is not None and each["t"] > row["t"]
    ]
    # Of events of equal time the last by `id` is the nearest.
    later.sort(key=lambda each: (each["t"], -each["id"]))
    windows = {
        "all": later,
        "time": [each for each in later if each["t"] - row["t"] <= kind.window],
        "rows": later[:3],
    }
    made: dict[str, Any] = {}
    for name, seen in windows.items():
        for how, (of, measure) in MEASURES.items():
            made[f"{how}_{name}"] = measure([each[of] for each in seen if each[of] is not None])
        made[f"events_{name}"] = len(seen)
        texts = [each["s"] for each in seen if each["s"] is not None]
        made[f"last_{name}"] = texts[0] if texts else None
        until = seen[0]["t"] - row["t"] if seen else None
        if isinstance(until, timedelta):
            until = until.days if kind.spark == "date" else until / timedelta(seconds=1)
        made[f"time_since_last_{name}"] = until
    return made


@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kind=st.sampled_from(sorted(KINDS)), drawn=st.lists(event, min_size=15, max_size=40))
def test_every_output_is_what_a_loop_over_later_events_gives(
    spark: SparkSession, kind: str, drawn: list[dict[str, Any]]
) -> None:
    how = KINDS[kind]
    rows = [
        {**row, "id": number, "later": None, "t": None if row["t"] is None else how.make(row["t"])}
        for number, row in enumerate(drawn)
    ]
    found = with_histories(frame(spark, rows, how), {"o": described(how)}, []).collect()
    assert len(found) == len(rows)
    for made in found:
        row = rows[made["id"]]
        for name, value in wanted(rows, row, how).items():
            assert same(made[f"o_{name}"], value), (name, row, value, made)


# --- For labels, and nothing else.

NEXT: dict[str, Any] = {
    "entity": ["place"],
    "time": "id",
    "aggregates": {
        "delay": {"how": "max", "of": "delay", "over": 8},
        "rows": {"how": "count", "over": 8},
    },
}
LABEL = {"name": "late", "expression": "CASE WHEN id <= 32 THEN next_delay > 30 END"}


def test_labels_are_made_of_outcomes_which_may_be_known_afterwards(spark: SparkSession) -> None:
    how = examples.described(
        outcomes={"next": NEXT},
        label={**LABEL, "absent": {"alone": "next_rows = 0", "early": "id > 32"}},
    )
    rows = [examples.clean_row(number) for number in range(1, 41)]
    ready = prepared(examples.frame(spark, rows), how)
    assert not {"next_delay", "next_rows", "delay"} & set(ready.columns)
    found = {row["id"]: (row["late"], row["_absent"]) for row in ready.collect()}
    for row in rows:
        number, place = row["id"], row["place"]
        delays = [
            each["delay"]
            for each in rows
            if place is not None and each["place"] == place and 0 < each["id"] - number <= 8
        ]
        label = int(max(delays) > 30) if delays and number <= 32 else None
        reason = "early" if delays else "alone"
        assert found[number] == (label, None if label is not None else reason), row
    spec = fit(ready.where("split = 'train'"), how, "small", "period")
    assert FeatureSpec.from_json(spec.to_json()) == spec
    assert spec.outcomes == how.outcomes
    without = spec.model_copy(update={"outcomes": {}})
    assert "outcomes" not in without.model_dump()
    assert without.hash != spec.hash
    assert "outcomes" not in examples.described().model_dump()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"derive": {"twice": "next_delay * 2"}}, r"features\.derive\.twice: .*features\.outcomes"),
        ({"weight": "next_rows + 1"}, r"features\.weight: .* features\.outcomes"),
    ],
)
def test_an_expression_over_an_outcome_leaks(
    spark: SparkSession, changes: dict[str, Any], told: str
) -> None:
    how = examples.described(outcomes={"next": NEXT}, cyclic={}, **{"derive": {}, **changes})
    with pytest.raises(LeakageError, match=told):
        prepared(examples.frame(spark, []), how)


HISTORY = {"entity": ["place"], "time": "id", "aggregates": {"sum": {"how": "sum", "of": "amount"}}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"numeric": {"next_delay": {}}}, r"numeric\.next_delay: 'next_delay' is an outcome"),
        ({"keys": ["id", "next_rows"]}, "keys: 'next_rows' is an outcome"),
        ({"entities": ["next_rows"]}, "entities: 'next_rows' is an outcome"),
        (
            {"splits": {"train": "next_rows > 1", "validation": "month = 3", "test": "month = 4"}},
            "splits: 'next_rows' is an outcome",
        ),
        (
            {"splits": {"by": "group", "column": "next_rows", "validation": 0.1, "test": 0.1}},
            "splits: 'next_rows' is an outcome",
        ),
        (
            {"histories": {"h": {**HISTORY, "time": "id + next_rows"}}},
            "histories: 'next_rows' is an outcome",
        ),
    ],
)
def test_an_outcome_elsewhere_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        examples.described(outcomes={"next": NEXT}, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"known_at": "id + 1"}, "known_at says nothing to an outcome"),
        ({"lags": {"one": {"of": "id"}}}, "lags says nothing"),
        ({"sequences": {"ids": {"of": "id", "rows": 2}}}, "sequences says nothing"),
        ({"aggregates": {}}, "no output"),
    ],
)
def test_outcomes_are_aggregates(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        LaterEvents.model_validate({**NEXT, **changes})


def test_names_are_told_apart_and_errors_name_the_section(
    spark: SparkSession, tmp_path: Path
) -> None:
    def load(**changes: Any) -> Any:
        return lakes.pipeline(tmp_path, {f"features.{n}": value for n, value in changes.items()})

    with pytest.raises(ConfigError, match=r"outcomes\.h: a history is called so"):
        load(outcomes={"h": NEXT}, histories={"h": HISTORY})
    other = {**NEXT, "aggregates": {"b_sum": {"how": "count"}}}
    with pytest.raises(ConfigError, match=r"outcomes\.a: 'a_b_sum' exists already"):
        load(outcomes={"a": other}, histories={"a_b": HISTORY})
    with pytest.raises(ConfigError, match=r"outcomes\.next\.entity: there is no column 'plac'"):
        load(outcomes={"next": {**NEXT, "entity": ["plac"]}})
    wrong = {**NEXT, "time": "amount"}
    how = examples.described(outcomes={"next": wrong}, cyclic={}, derive={})
    with pytest.raises(SpecError, match=r"features\.outcomes\.next\.time: is double, no time"):
        prepared(examples.frame(spark, []), how)


# --- Over a lake that grows: labels of earlier rows change.

CHANGES: dict[str, Any] = {
    **{name: how for name, how in SHOP_CHANGES.items() if name != "features.series"},
    "features.outcomes": {
        "soon": {
            "entity": ["who"],
            "time": "t",
            "aggregates": {
                "spent": {"how": "sum", "of": "amount", "over": 130},
                "kinds": {"how": "distinct", "of": "floor(amount)", "over": 70},
            },
        }
    },
    "features.histories": {
        "h": {
            "entity": ["who"],
            "time": "t",
            "aggregates": {"mean": {"how": "mean", "of": "amount", "over": 110}},
        }
    },
    "features.numeric": {"h_mean": {"scale": "none"}},
    "features.label": {
        "task": "regression",
        "name": "spent",
        "expression": "CASE WHEN t < 500 THEN coalesce(soon_spent, 0) + soon_kinds END",
    },
    "features.leakage": ["delay"],
    "train.model": {"family": "mlp"},
}
CORRECTED = next(row for row in shop_rows(300, 30, 3) if row["who"] == "b")
NEW_MONTH = ("new_month", shop_rows(500, 30, 5), {"2013-04"})
"""Of the months before, the last reaches into the new one."""
LATE = ("late", shop_rows(150, 1, 1, "a", t=159), {"2013-01", "2013-02"})
"""No later than 110 after it, histories see it; no earlier than 130 before, outcomes."""
ALONE = ("alone", shop_rows(600, 3, 2, "z", t=299), set[str]())
CORRECTION = (
    "corrected",
    [{**CORRECTED, "amount": 1e3, "version": 2}],
    {"2013-02", "2013-03", "2013-04"},
)


@pytest.mark.parametrize(
    "steps",
    [
        [NEW_MONTH, CORRECTION],
        pytest.param([NEW_MONTH, LATE, ALONE, CORRECTION], marks=pytest.mark.long),
    ],
    ids=["new and corrected", "all"],
)
def test_an_increment_gives_the_labels_of_a_full_run(
    spark: SparkSession, tmp_path: Path, steps: list[tuple[str, list[dict[str, Any]], set[str]]]
) -> None:
    for month in (1, 2, 3, 4):
        rows = shop_rows(100 * month, 30, month)
        lakes.write_raw(tmp_path / "raw" / f"{month}.parquet", rows, SHOPS)
    pipeline = lakes.pipeline(tmp_path, CHANGES)
    lake = Lake(pipeline.lake)
    clean_increment(spark, pipeline, lake)
    _, spec = featurize(spark, pipeline, lake)
    local = local_of(lake, spec)
    assert local is not None
    assert local.spark_only is None
    assert local.given.names == ["h_mean"], "no label, and nothing that labels are made of"
    for name, rows, remade in steps:
        before = by_period(lake, spec)
        lakes.write_raw(tmp_path / "raw" / f"{name}.parquet", rows, SHOPS)
        clean_increment(spark, pipeline, lake)
        assert not follow(spark, pipeline, lake, spec).unchanged
        after = by_period(lake, spec)
        assert {each for each in before if not before[each] <= after[each]} == remade, name
        found = pl.read_delta(lake.table(spec.table).root).sort("id")
        assert found["spent"].null_count() < found.height
        expected = features_of(spark, pipeline, lake, spec, tmp_path / name)
        assert found.equals(expected.select(found.columns)), name
    assert follow(spark, pipeline, lake, spec).unchanged


def test_the_example_of_the_documentation_is_a_description() -> None:
    text = (Path(__file__).parents[2] / "docs" / "histories.md").read_text()
    block = yaml.safe_load(text.split("## Outcomes")[1].split("```yaml")[1].split("```")[0])
    for outcome in block["features"]["outcomes"].values():
        assert LaterEvents.model_validate(outcome).outputs
