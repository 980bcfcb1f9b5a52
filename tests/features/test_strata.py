"""The fit of a stratified split, against counting in plain Python."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.config import FittedStrata
from pipeline.errors import SpecError
from pipeline.features import strata
from pipeline.features.catalogue import newest_spec
from pipeline.features.prepared import SPLIT, prepared
from pipeline.features.stage import featurize, follow
from pipeline.lake import Lake
from tests.clean import examples
from tests.features import examples as rows_of_clean


def digits(number: int, seed: int) -> str:
    text = f"{seed}|{number}".encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest()[:13]


def exact(rows: int, share: float) -> int:
    return min(int(rows * share + 0.5), rows - 1)


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    shares=st.sampled_from([(0.1, 0.1), (0.25, 0.5), (0.0, 0.3), (0.2, 0.0), (0.45, 0.5)]),
)
@example(sizes=[1, 2, 3], seed=0, shares=(0.1, 0.1))
def test_shares_are_exact_in_each_stratum(
    spark: SparkSession, sizes: list[int], seed: int, shares: tuple[float, float]
) -> None:
    validation, test = shares
    splits = {"by": "stratified", "expression": "place", "seed": seed}
    how = rows_of_clean.described(
        splits={**splits, "validation": validation, "test": test},
        label={"name": "late", "expression": "delay > 15"},
    )
    places = [place for place, size in enumerate(sizes) for _ in range(size)]
    rows = [
        rows_of_clean.clean_row(n, place=f"p{place}" if place else None, delay=float(n))
        for n, place in enumerate(places)
    ]
    # Without a label, a row is in no stratum.
    rows += [rows_of_clean.clean_row(1000 + n, delay=None) for n in range(5)]
    frame = rows_of_clean.frame(spark, rows)
    fitted = strata.with_fitted_strata(frame, how)
    found = prepared(frame, fitted).select("id", SPLIT).collect()
    by_place: dict[int, Counter[str]] = defaultdict(Counter)
    members = defaultdict(list)
    for row in found:
        if row["id"] >= 1000:
            assert row[SPLIT] == "unlabelled"
            continue
        by_place[places[row["id"]]][row[SPLIT]] += 1
        members[places[row["id"]]].append((digits(row["id"], seed), row[SPLIT]))
    for place, size in enumerate(sizes):
        first, both = exact(size, test), exact(size, test + validation)
        counted = by_place[place]
        wanted = {"test": first, "validation": both - first, "train": size - both}
        assert counted == {name: n for name, n in wanted.items() if n}
        # And they are the lowest hashes, not just as many.
        in_order = [split for _, split in sorted(members[place])]
        assert in_order == sorted(in_order, key=["test", "validation", "train"].index)


def test_a_threshold_moves_no_further_than_it_must() -> None:
    """Rows that come later are divided by it, so it stays near the share."""
    tenth = "1999999999999a"[:13]
    assert strata._border(tenth, None, "5000000000000") == tenth
    assert strata._border(tenth, "1000000000000", "5000000000000") == tenth
    assert strata._border(tenth, "2000000000000", "5000000000000") == "2000000000001"
    assert strata._border(tenth, None, "0800000000000") == "0800000000000"


@pytest.mark.parametrize("expression", ["delay > 1", "late", "_absent", "max(id)", "place +"])
def test_an_expression_sees_what_conditions_see(spark: SparkSession, expression: str) -> None:
    """Neither the leakage, nor the label, nor any other row."""
    splits = {"by": "stratified", "expression": expression, "validation": 0.1, "test": 0.1}
    how = rows_of_clean.described(splits=splits)
    with pytest.raises(SpecError, match=r"^features\.splits\.expression: "):
        strata.with_fitted_strata(rows_of_clean.frame(spark, []), how)


def test_too_many_strata_are_refused(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strata, "MOST_STRATA", 3)
    splits = {"by": "stratified", "expression": "id", "validation": 0.1, "test": 0.1}
    rows = [rows_of_clean.clean_row(number, delay=1.0) for number in range(5)]
    with pytest.raises(SpecError, match="there are more than 3 strata"):
        strata.with_fitted_strata(
            rows_of_clean.frame(spark, rows), rows_of_clean.described(splits=splits)
        )


def test_what_comes_later_is_divided_by_the_thresholds_fitted_before(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Through the real stages: an increment moves no row, and a new stratum has its shares."""
    changes: dict[str, Any] = {
        "features.label": {"name": "late", "expression": "amount > 5"},
        "features.splits": {"by": "stratified", "validation": 0.2, "test": 0.1},
    }
    pipeline = examples.pipeline(tmp_path, changes)
    lake = Lake(pipeline.lake)
    examples.write_raw(tmp_path / "raw" / "1.parquet", examples.some_rows(0, 175, 1))
    clean(spark, pipeline, lake)
    done, spec = featurize(spark, pipeline, lake)
    assert isinstance(spec.splits, FittedStrata)
    assert newest_spec(lake, "small") == spec
    assert sorted(spec.splits.borders) == ["0.0", "1.0"]
    # Of 175 rows 25 have the amount 6: 2.5 and 5 of them, where a draw alone would give any number.
    before = examples.table(lake, spec.table).select("id", "late", "split")
    late = Counter(split for _, label, split in before.iter_rows() if label)
    assert late == {"test": 3, "validation": 5, "train": 17}
    assert done.counts == {"test": 18, "validation": 35, "train": 122}
    examples.write_raw(tmp_path / "raw" / "2.parquet", examples.some_rows(500, 300, 2))
    clean(spark, pipeline, lake)
    follow(spark, pipeline, lake, spec)
    after = examples.table(lake, spec.table).select("id", "late", "split")
    assert after.height == 475
    assert after.join(before, on=["id", "late", "split"]).height == 175
    for number, label, split in after.iter_rows():
        test, validation = spec.splits.borders[str(label)]
        drawn = digits(number, 0)
        assert split == (
            "test" if drawn < test else "validation" if drawn < validation else "train"
        )
