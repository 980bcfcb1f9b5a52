from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from pipeline.errors import LeakageError, SpecError
from pipeline.features.derive import require_no_leakage_in_clean
from pipeline.features.prepared import ABSENT, HIDDEN_LABEL, prepared
from pipeline.lake import Snapshot
from pipeline.lake.schema import from_spark
from pipeline.stores.folder import DiskFolder
from tests.clean import examples as clean_examples
from tests.features import examples


@pytest.mark.parametrize("section", ["numeric", "categorical", "cyclic"])
def test_a_leakage_column_is_no_feature(section: str) -> None:
    settings = {"delay": {"period": 7} if section == "cyclic" else {}}
    with pytest.raises(ValidationError, match=rf"{section}\.delay is listed under leakage"):
        examples.described(**{section: settings})


@pytest.mark.parametrize(
    ("derive", "where"),
    [
        ({"x": "delay * 2"}, "x"),
        ({"x": "DELAY"}, "x"),
        ({"x": "`delay`"}, "x"),
        ({"x": "CASE WHEN delay > 15 THEN 1 ELSE 0 END"}, "x"),
        ({"x": "amount", "y": "x + delay"}, "y"),
        ({"x": "delay", "y": "x", "z": "y"}, "x"),
        ({"x": "transform(array(1), one -> one + delay)[0]"}, "x"),
        ({"x": "named_struct('d', delay).d"}, "x"),
        ({"x": "coalesce(NULL, delay)"}, "x"),
    ],
)
def test_nothing_can_be_derived_from_leakage(
    spark: SparkSession, derive: dict[str, str], where: str
) -> None:
    clean = examples.frame(spark, [])
    with pytest.raises(LeakageError) as caught:
        prepared(clean, examples.described(derive=derive, cyclic={}))
    assert caught.value.where == f"features.derive.{where}"
    assert "delay" in caught.value.problem


@pytest.mark.parametrize(
    "text",
    [
        HIDDEN_LABEL,
        f"length({ABSENT})",
        f"to_json(struct({HIDDEN_LABEL}))",
        "late",
        "(SELECT max(1))",
        "EXISTS (SELECT 1)",
        "avg(amount) OVER ()",
        "lag(amount) OVER (ORDER BY id)",
        "max(amount)",
        "explode(array(1, 2))",
        "_metadata.row_index",
        "_metadata.file_path",
        "input_file_name()",
        "rand()",
        "current_date()",
        "*",
        "struct(*).delay",
        "struct(*)._label",
        "from_json(to_json(struct(*)), 'delay double').nothing",
    ],
)
def test_no_detour_leads_to_the_label_or_beyond_the_row(spark: SparkSession, text: str) -> None:
    clean = examples.frame(spark, [])
    with pytest.raises(SpecError, match=r"features\.derive\.x"):
        prepared(clean, examples.described(derive={"x": text}, cyclic={}))


def test_a_star_stands_for_what_is_known_and_nothing_more(spark: SparkSession) -> None:
    """`_label` and the leakage column are in the frame that the expression is added to."""
    clean = examples.frame(spark, [examples.clean_row(1)])
    derive = {
        "all": "to_json(struct(*))",
        "again": "to_json(struct(*))",
        "guessed": "get_json_object(to_json(struct(*)), '$.delay')",
        "asked": "from_json(to_json(struct(*)), '_label double')._label",
    }
    (row,) = prepared(clean, examples.described(derive=derive, cyclic={})).collect()
    known = '"id":1,"month":2,"amount":0.3333333333333333,"place":"b","period":"2013-02"'
    assert row["all"] == f"{{{known}}}"
    escaped = row["all"].replace('"', r"\"")
    assert row["again"] == f'{{{known},"all":"{escaped}"}}'
    assert row["guessed"] is None
    assert row["asked"] is None
    assert row["late"] == 0


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"splits": {"train": "delay > 1", "validation": "true", "test": "true"}}, "splits.train"),
        ({"splits": {"train": "true", "validation": "_label = 1", "test": "true"}}, "validation"),
        ({"splits": {"train": "true", "validation": "true", "test": "month"}}, "splits.test"),
        ({"label": {"name": "late", "expression": "delay >"}}, "label.expression"),
        ({"label": {"name": "late", "expression": "late"}}, "label.expression"),
        ({"label": {"name": "late", "expression": "place"}}, "label.expression"),
        ({"label": {"name": "late", "expression": "max(delay) > 1"}}, "label.expression"),
        ({"label": {"name": "late", "expression": "true", "absent": {"x": "id"}}}, "absent.x"),
        ({"label": {"name": "amount", "expression": "true"}}, "label.name"),
        ({"label": {"name": "day", "expression": "true"}}, "label.name"),
        ({"derive": {"split": "1", "day": "1"}}, "split"),
        ({"derive": {"amount": "1", "day": "1"}}, "derive.amount"),
    ],
)
def test_a_wrong_label_split_or_name_is_named(
    spark: SparkSession, changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(SpecError) as caught:
        prepared(examples.frame(spark, []), examples.described(**changes))
    assert where in caught.value.where


TOTAL = {"entity": ["id"], "time": "id", "aggregates": {"n": {"how": "count"}}}


@pytest.mark.parametrize(
    ("column", "changes", "where"),
    [
        ("Late", {}, "features.label.name 'late'"),
        ("Split", {}, "a split's name 'split'"),
        ("Day", {}, "features.derive.day"),
        ("H_N", {"histories": {"h": TOTAL}}, "features.histories, column h_n"),
    ],
)
def test_to_spark_a_name_in_capitals_is_the_same(
    spark: SparkSession, column: str, changes: dict[str, Any], where: str
) -> None:
    """A new column `late` would take the place of the column `Late`."""
    clean = examples.frame(spark, []).withColumnRenamed("amount", column)
    how = examples.described(**{"numeric": {column: {}}, "derive": {"day": "id % 7"}, **changes})
    with pytest.raises(SpecError) as caught:
        prepared(clean, how)
    assert caught.value.where == where


JOIN: dict[str, Any] = {
    "path": "side",
    "on": {"delay": "delay"},
    "columns": {"delay": {"type": "double"}, "why": {"type": "string"}},
    "select": {"why": "why"},
}
BY_TIME = {
    "path": "side",
    "on": {"place": "name"},
    "asof": {"left": "delay", "right": "delay"},
    "columns": {**JOIN["columns"], "name": {"type": "string"}},
    "select": {"why": "why"},
}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"clean.joins": {"side": JOIN}}, r"clean\.joins\.side\.select\.why: is found by delay"),
        (
            {"clean.joins": {"side": BY_TIME}},
            r"clean\.joins\.side\.select\.why: is found by delay",
        ),
        (
            {"clean.period": {"column": "period", "expression": "string(delay)"}},
            r"clean\.period\.expression: 'string\(delay\)' uses a column listed under",
        ),
    ],
)
def test_what_clean_made_of_leakage_is_leakage(
    spark: SparkSession, tmp_path: Any, changes: dict[str, Any], where: str
) -> None:
    schema = from_spark(examples.frame(spark, []).schema)
    clean = Snapshot(
        name="",
        folder=DiskFolder(""),
        table_id="",
        version=1,
        schema=schema,
        partition_by=(),
        files=(),
    )
    with pytest.raises(LeakageError, match=where):
        require_no_leakage_in_clean(spark, clean_examples.pipeline(tmp_path, changes), clean)
    listed = {**changes, "features.leakage": ["delay", "why"]}
    if "clean.joins" in changes:
        require_no_leakage_in_clean(spark, clean_examples.pipeline(tmp_path, listed), clean)
