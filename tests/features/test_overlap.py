"""Overlap between splits, against sets in plain Python."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.config import Pipeline, SpecSplits
from pipeline.errors import CountError
from pipeline.features.overlap import (
    OVERLAPS,
    Overlap,
    from_note,
    overlaps,
    require_none,
    to_note,
    watched_columns,
)
from pipeline.features.stage import featurize
from pipeline.lake import Lake
from pipeline.operate.report.findings import _overlaps as findings_of
from tests.clean import examples
from tests.features.test_splits import RAW, raw_rows
from tests.features.test_splits import described as pipeline_of

CONDITIONS = {"train": "month <= 2", "validation": "month = 3", "test": "month >= 4"}


def counted(rows: list[tuple[Any, str]], split: str) -> dict[str, int]:
    known = {entity for entity, at in rows if at == "train" and entity is not None}
    there = [entity for entity, at in rows if at == split]
    return {
        "entities": len(known & set(there)),
        "rows": sum(entity in known for entity in there),
        "of_rows": len(there),
    }


splits = st.sampled_from(["train", "validation", "test", "unlabelled", "rest"])


@settings(max_examples=8, deadline=None)
@given(rows=st.lists(st.tuples(st.none() | st.integers(0, 8), splits), max_size=40))
@example(rows=[(1, "train"), (1, "train"), (1, "test"), (2, "test"), (1, "validation")] * 2)
@example(rows=[(None, "train"), (None, "test"), (3, "rest"), (3, "test")])
def test_entities_and_rows_are_counted(spark: SparkSession, rows: list[tuple[Any, str]]) -> None:
    frame = spark.createDataFrame(rows, "train int, split string")  # a column called like a split
    found = overlaps(frame, ["train"])
    assert [overlap.split for overlap in found] == ["validation", "test"]
    for overlap in found:
        wanted = counted(rows, overlap.split)
        assert {name: getattr(overlap, name) for name in wanted} == wanted
    assert from_note(to_note(found)) == found


@pytest.fixture(scope="module")
def lake_and_root(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """Raw files and `clean`."""
    root = tmp_path_factory.mktemp("overlap")
    for month in (1, 3, 4):
        examples.write_raw(
            root / "raw" / f"{month}.parquet", raw_rows(1000 * month, 30, month), RAW
        )
    pipeline = pipeline_of(root, CONDITIONS)
    clean(spark, pipeline, Lake(pipeline.lake))
    return root


def featurized(spark: SparkSession, pipeline: Pipeline) -> tuple[Any, tuple[Overlap, ...], str]:
    lake = Lake(pipeline.lake)
    done, spec = featurize(spark, pipeline, lake)
    return done, from_note(lake.table(spec.table).last_note(OVERLAPS)), spec.hash


def test_customers_in_two_splits_are_told(spark: SparkSession, lake_and_root: Path) -> None:
    unwatched, nothing, plain = featurized(spark, pipeline_of(lake_and_root, CONDITIONS))
    assert (nothing, unwatched.note) == ((), "")
    watching = {"features.entities": ["customer"]}
    done, found, watched = featurized(spark, pipeline_of(lake_and_root, CONDITIONS, **watching))
    assert (watched, done.unchanged) == (plain, False)
    # Counted anew, by the fit that is on record.
    assert examples.table(Lake(pipeline_of(lake_and_root, CONDITIONS).lake), "specs").height == 1
    rows = [
        (row["customer"], {1: "train", 3: "validation", 4: "test"}[month])
        for month in (1, 3, 4)
        for row in raw_rows(1000 * month, 30, month)
    ]
    for overlap in found:
        wanted = counted(rows, overlap.split)
        assert {name: getattr(overlap, name) for name in wanted} == wanted
        assert done.counts[f"customer in train and {overlap.split}"] == wanted["entities"] > 0
        assert done.counts[f"{overlap.split} rows with a customer of train"] == wanted["rows"]
        assert overlap.sentence in done.note
    again, _, _ = featurized(spark, pipeline_of(lake_and_root, CONDITIONS, **watching))
    assert (again.unchanged, again.counts, again.note) == (True, done.counts, done.note)
    # And nothing of it is left when nobody watches.
    after, left, _ = featurized(spark, pipeline_of(lake_and_root, CONDITIONS))
    assert (left, after.note, after.counts) == ((), "", unwatched.counts)


def test_by_group_there_is_none_and_an_empty_split_is_told(
    spark: SparkSession, lake_and_root: Path
) -> None:
    by_group = {"by": "group", "column": "customer", "validation": 0, "test": 0.3}
    done, found, _ = featurized(spark, pipeline_of(lake_and_root, by_group))
    assert [(overlap.column, overlap.entities) for overlap in found] == [("customer", 0)] * 2
    assert done.note == "no labelled row is in the split validation"


def test_an_entity_in_two_splits_by_group_is_an_error() -> None:
    by_group = {"by": "group", "column": "customer", "validation": 0.1, "test": 0.1}
    adapter = TypeAdapter[Any](SpecSplits)
    grouped, conditions = adapter.validate_python(by_group), adapter.validate_python(CONDITIONS)
    found = Overlap(column="customer", split="test", entities=3, rows=4, of_rows=8)
    assert watched_columns(grouped, ["place", "customer"]) == ("place", "customer")
    assert watched_columns(grouped, ["place"]) == ("place", "customer")
    assert watched_columns(conditions, []) == ()
    require_none([found], conditions)
    with pytest.raises(CountError, match="splits are by customer, yet 3 values of customer"):
        require_none([found], grouped)


def test_the_report_tells_what_was_counted() -> None:
    found = (
        Overlap(column="customer", split="validation", entities=0, rows=0, of_rows=100),
        Overlap(column="customer", split="test", entities=318, rows=1200, of_rows=10_000),
        Overlap(column="place", split="test", entities=1, rows=9, of_rows=10_000),
    )
    inputs: Any = SimpleNamespace(overlaps=found)
    serious, note = findings_of(inputs)
    told = "318 values of customer in test (12 % of its rows) are in train, too"
    assert (serious.level, note.level) == ("serious", "note")
    assert serious.text.startswith(told)
    assert "1 value of place in test (less than 1 % of its rows) is in train, too" in note.text
