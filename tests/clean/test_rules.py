from __future__ import annotations

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline.clean.rules import fails_column, with_rules
from pipeline.config import Rule
from pipeline.errors import RuleError

CONTRACT = ("id", "x", "s", "yes")


def rules(**checks: str) -> dict[str, Rule]:
    return {name: Rule(check=check, action="drop") for name, check in checks.items()}


def test_a_row_passes_only_where_the_condition_is_true(spark: SparkSession) -> None:
    frame = spark.createDataFrame(
        [(1, 0.0, "7", True), (2, 2.0, "x", False), (3, None, None, None)],
        "id int, x double, s string, yes boolean",
    )
    # Check and the ids of the rows that pass.
    expected = {
        "x = 2": {2},
        "x <> 2": {1},
        "x IS NULL OR x < 1": {1, 3},
        "yes": {1},
        "true": {1, 2, 3},
        "CAST(NULL AS BOOLEAN)": set(),
        "1 / x > 0.1": {2},
        "1 / x < 5": {2},  # shares a term with the one above: neither may fail the other
        "1 / x > 0.1 AND 1 / x < 5 OR 1 / x = 7": {2},
        "x IS NULL OR 1 / x > 0": {2, 3},
        "CAST(s AS INT) = 7": {1},
        "CAST(s AS INT) = 7 OR id = 2": {1},  # an error fails, whatever stands beside it
        "id * 1073741824 > 0": {1},
        "id * 1073741824 > 0 OR true": {1, 2, 3},  # what needs no evaluation is no error
        "element_at(array(5, 6), id) > 0": {1, 2},
        "to_json(struct(*)) LIKE '%\"id\":1%'": {1},
        "to_json(struct(*)) LIKE '%secret%'": set(),
        "yes AS other": {1},
        "1 / 0 > 1": set(),
        "assert_true(id = 1) IS NULL": {1},
    }
    named = rules(**{f"r{place}": check for place, check in enumerate(expected)})
    with_hidden = frame.withColumn("_secret", F.lit("secret"))
    rows = with_rules(with_hidden, named, CONTRACT).collect()
    passed = {
        rule.check: {row["id"] for row in rows if not row[fails_column(name)]}
        for name, rule in named.items()
    }
    assert passed == expected


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("x >", "Syntax error"),
        ("x = 1; DROP TABLE y", "Syntax error"),
        ("nothing = 1", "`nothing` cannot be resolved"),
        ("_hidden = 1", "`_hidden` cannot be resolved"),
        ("_metadata.file_name = 'a'", "cannot be resolved"),
        ("frobnicate(x)", "Cannot resolve routine"),
        ("year(x, x) = 1", "requires 1 parameters"),
        ("x", "is double, not boolean"),
        ("NULL", "is void, not boolean"),
        ("x AND yes", "AND"),
        ("rand() > 0.5", "is not deterministic"),
        ("uuid() > s", "is not deterministic"),
        ("monotonically_increasing_id() > 1", "is not deterministic"),
        ("current_timestamp() > timestamp '2013-01-01'", "asks for the present time"),
        ("now() > timestamp '2013-01-01'", "asks for the present time"),
        ("unix_timestamp() > 1", "asks for the present time"),
        ("sum(x) > 1", "is not a function of one row"),
        ("count(*) OVER (PARTITION BY id) = 1", "is not a function of one row"),
        ("explode(array(true, false))", "is not a function of one row"),
        ("(SELECT true)", "holds a subquery"),
        ("EXISTS (SELECT 1)", "holds a subquery"),
        ("x IN (SELECT 1)", "holds a subquery"),
        ("*", "is not one column but several"),
    ],
)
def test_what_is_no_condition_on_one_row_is_refused(
    spark: SparkSession, check: str, told: str
) -> None:
    frame = spark.createDataFrame([], "id int, x double, s string, yes boolean, _hidden int")
    with pytest.raises(RuleError) as caught:
        with_rules(frame, rules(mine=check), CONTRACT)
    assert caught.value.where == "clean.rules.mine.check"
    assert repr(check) in caught.value.problem
    assert told in caught.value.problem
    assert "SQLSTATE" not in str(caught.value)
    assert "_hidden" not in caught.value.remedy
