from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from pipeline.config import Features
from pipeline.errors import SpecError
from pipeline.features.fit import fit
from pipeline.features.label import bad_labels, is_bad_label
from pipeline.features.prepared import prepared
from pipeline.features.transform import features
from tests.features import examples

ROWS = [
    *(examples.clean_row(number) for number in range(12)),
    examples.clean_row(12, delay=None, place="lost"),
    examples.clean_row(13, delay=None, amount=None, place=None),
    examples.clean_row(14, delay=30.0, amount=None, place="b"),
]
ABSENT = {"lost": "place = 'lost'", "unmeasured": "delay IS NULL"}


def described(**label: Any) -> Features:
    label = {"name": "late", "absent": ABSENT, **label}
    return examples.described(label=label, categorical={}, leakage=["delay", "place"])


def labelled(clean: DataFrame, how: Features) -> dict[int, dict[str, Any]]:
    """The rows by id, with `bad`."""
    rows = prepared(clean, how).withColumn("bad", is_bad_label(how.label)).collect()
    return {row["id"]: row.asDict() for row in rows}


def why_absent(row: dict[str, Any]) -> str:
    return "lost" if row["place"] == "lost" else "unmeasured" if row["delay"] is None else "unknown"


def require_labels(
    rows: dict[int, dict[str, Any]], wanted: Mapping[str, Mapping[int, float | None]]
) -> None:
    """All columns as wanted, and rows without a label where they belong."""
    for row in ROWS:
        got = rows[row["id"]]
        labels = [values[row["id"]] for values in wanted.values()]
        assert [got[name] for name in wanted] == labels
        assert (got["split"] == "unlabelled") == (None in labels)
        assert got["_absent"] == (why_absent(row) if None in labels else None)
        assert got["bad"] is False


@pytest.mark.parametrize("numeric", [False, True])
def test_a_class_is_its_place_among_the_classes(spark: SparkSession, numeric: bool) -> None:
    known = ["a", "b", "lost", "rare"]
    classes = ["2", "0", "1"] if numeric else known[::-1]
    how = described(
        task="multiclass", expression="IF(id = 3, NULL, id % 3)" if numeric else "place",
        classes=classes,
    )  # fmt: skip
    values = {
        row["id"]: (None if row["id"] == 3 else str(row["id"] % 3)) if numeric else row["place"]
        for row in ROWS
    }
    wanted = {n: None if value is None else classes.index(value) for n, value in values.items()}
    clean = examples.frame(spark, ROWS)
    assert len(set(wanted.values())) == 4, "three classes and null"
    require_labels(labelled(clean, how), {"late": wanted})
    spec = fit(prepared(clean, how), how, "small", "period")
    assert dict(features(prepared(clean, how), spec).dtypes)["late"] == "int"
    assert spec.label_columns == ("late",)


def test_a_number_is_the_label_of_a_regression(spark: SparkSession) -> None:
    how = described(task="regression", expression="delay / 3")
    wanted = {
        r["id"]: None if r["delay"] is None else float(np.float32(r["delay"] / 3)) for r in ROWS
    }
    require_labels(labelled(examples.frame(spark, ROWS), how), {"late": wanted})


def test_of_several_labels_a_row_has_all_or_none(spark: SparkSession) -> None:
    how = described(
        task="multilabel",
        expressions={"long": "delay > 15", "costly": "amount >= 2", "odd": "id % 2"},
    )
    wanted: dict[str, dict[int, float | None]] = {
        "late_long": {},
        "late_costly": {},
        "late_odd": {},
    }
    for row in ROWS:
        known = row["delay"] is not None and row["amount"] is not None
        values = (row["delay"] > 15, row["amount"] >= 2, row["id"] % 2) if known else (None,) * 3
        for name, value in zip(wanted, values, strict=True):
            wanted[name][row["id"]] = None if value is None else float(value)
    rows = labelled(examples.frame(spark, ROWS), how)
    require_labels(rows, wanted)
    assert rows[14]["_absent"] == "unknown", "only amount is null there"


def test_a_reconstruction_has_no_label_and_lacks_none(spark: SparkSession) -> None:
    how = described(task="reconstruction")
    clean = examples.frame(spark, ROWS)
    rows = labelled(clean, how)
    assert {(row["_absent"], row["bad"]) for row in rows.values()} == {(None, False)}
    assert {row["split"] for row in rows.values()} == {"train", "validation", "test", "rest"}
    assert "late" not in rows[0]
    spec = fit(prepared(clean, how), how, "small", "period")
    made = features(prepared(clean, how), spec)
    assert made.columns == ["id", *spec.numeric_columns, "_missing_0", "split", "period"]
    assert spec.label_columns == ()


BAD: dict[str, tuple[dict[str, Any], list[int], str]] = {
    "multiclass": (
        {"expression": "place", "classes": ["a", "lost"]},
        [1, 5, 9, 14],
        r"^features\.label\.classes: 'place' is none of the 2 classes in 4 rows\. List all",
    ),
    "regression": (
        {"expression": "CASE id WHEN 1 THEN 1e39 WHEN 2 THEN -1e300 WHEN 4 THEN double('NaN') "
                       "WHEN 5 THEN double('inf') WHEN 6 THEN 3.4e38 ELSE delay END"},
        [1, 2, 4, 5],
        r"^features\.label\.expression: .* is not finite, or too large for a float, in 4 rows",
    ),
    "binary": (
        {"expression": "IF(id = 7, double('NaN'), id % 3)"},
        [2, 5, 7, 8, 11, 14],
        r"is neither 0 nor 1 in 6 rows",
    ),
    # Of row 13 another label is null: it has none at all.
    "multilabel": (
        {"expressions": {"x": "IF(id IN (3, 13), 0.5, 1)", "y": "delay > 15"}},
        [3],
        r"^features\.label\.expressions: 'IF.* \| delay > 15' is neither 0 nor 1 in 1 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", BAD)
def test_values_that_a_task_cannot_learn_are_counted_and_refused(
    spark: SparkSession, task: str
) -> None:
    changes, bad, told = BAD[task]
    how = described(task=task, **changes)
    clean = examples.frame(spark, ROWS)
    rows = labelled(clean, how)
    assert sorted(number for number, row in rows.items() if row["bad"]) == bad
    assert all(rows[number]["split"] != "unlabelled" for number in bad)
    assert re.search(told, str(bad_labels(how.label, len(bad))))
    if task == "multiclass":
        with pytest.raises(SpecError, match=told):
            fit(prepared(clean, how), how, "small", "period")


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (
            {"task": "regression", "expression": "place"},
            r"^features\.label\.expression: 'place' is string\. Write a finite number",
        ),
        (
            {"task": "multiclass", "expression": "array(id)", "classes": ["1", "2"]},
            r"'array\(id\)' is array<int>\. Write what gives one of features\.label\.classes",
        ),
        (
            {"task": "multilabel", "expressions": {"x": "id = 1", "y": "place"}},
            r"^features\.label\.expressions\.y: 'place' is string\. Write a condition",
        ),
        (
            {"task": "multilabel", "name": "mon", "expressions": {"th": "id = 1", "x": "id = 1"}},
            None,
        ),
        (
            {"task": "multilabel", "name": "the", "expressions": {"day": "id = 1", "x": "id = 1"}},
            r"^features\.label\.name 'the_day': is a column of clean or derived already",
        ),
    ],
)
def test_a_label_of_a_wrong_type_or_name_is_refused(
    spark: SparkSession, label: dict[str, Any], told: str | None
) -> None:
    how = described(**label).model_copy(update={"derive": {"the_day": "id % 7", "day": "id % 7"}})
    if told is None:
        assert {"mon_th", "mon_x"} <= set(prepared(examples.frame(spark, []), how).columns)
        return
    with pytest.raises(SpecError, match=told):
        prepared(examples.frame(spark, []), how)
