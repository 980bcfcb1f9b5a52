"""The table of actions: what it lists is what the YAML allows, and one more needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Observation, SparkSession
from pyspark.sql import functions as F

from pipeline.clean.actions import ACTIONS, Action
from pipeline.clean.contract import REASONS
from pipeline.clean.quality import Counts, counts_of, observed_verdicts
from pipeline.clean.rules import with_rules
from pipeline.clean.stage import refuse_failed_rules
from pipeline.clean.table_rules import Rights, with_table_rules
from pipeline.clean.verdict import VERDICT, with_verdict
from pipeline.config import Pipeline, Rule, TableRule
from pipeline.errors import ConfigError, RuleError
from tests.clean import examples


class Few(Action):
    """Rows that fail go to quarantine, a quarter of all rows at most."""

    name = "few"
    verdict = "quarantine"
    limits = True

    def ends_run(self, failing: int, rows: int) -> bool:
        return failing * 4 > rows

    @property
    def told(self) -> str:
        return "few (a quarter at most)"


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline with an action that was not there when the settings were declared."""
    monkeypatch.setitem(ACTIONS, "few", Few())
    pipeline = examples.pipeline(tmp_path)
    rules = {
        "even": Rule.model_construct(check="n % 2 = 0", action="few"),
        "known": Rule(check="n >= 0", action="drop"),
    }
    once = {"once": TableRule.model_construct(unique=("n",), action="few")}
    clean = pipeline.clean.model_copy(update={"rules": rules, "table_rules": once})
    return pipeline.model_copy(update={"clean": clean})


@pytest.mark.parametrize(
    "setting", [{"clean.rules": {"x": {"check": "id > 0", "action": "delete"}}},
                {"clean.table_rules": {"x": {"unique": ["id"], "action": "delete"}}}],
)  # fmt: skip
def test_an_unknown_action_is_refused_with_those_that_there_are(
    tmp_path: Path, setting: dict[str, Any]
) -> None:
    told = r"x\.action: Input should be 'drop', 'quarantine', 'warn' or 'fail' \(value: 'delete'\)"
    with pytest.raises(ConfigError, match=told):
        examples.pipeline(tmp_path, setting)
    assert list(ACTIONS) == ["drop", "quarantine", "warn", "fail"]


def test_one_more_action_is_followed_by_verdicts_reasons_and_counts(
    spark: SparkSession, described: Pipeline
) -> None:
    numbers = [2, 4, 4, 4, 3, -2, -3, 6, 8, 10]  # three share a key, -2 is dropped, 3 and -3 fail
    frame = spark.createDataFrame([(n, []) for n in numbers], f"n int, {REASONS} array<string>")
    rules = described.clean.rules
    judged = with_verdict(with_rules(frame, rules, ["n"]), rules)
    judged = with_table_rules(judged, Rights(spark, described, {}))
    observation = Observation()
    seen = observed_verdicts(
        judged, {}, rules, observation, described.clean.table_rules
    ).select("n", VERDICT, F.concat_ws(" ", REASONS).alias("why"))  # fmt: skip
    assert sorted(map(tuple, seen.collect())) == [
        (-3, "quarantine", "rule:even rule:known"),
        (-2, "drop", "rule:known"),
        (2, "clean", ""),
        (3, "quarantine", "rule:even"),
        *[(4, "quarantine", "table:once")] * 3,
        *[(n, "clean", "") for n in (6, 8, 10)],
    ]
    counts = counts_of(observation)
    assert (counts.raw, counts.clean, counts.quarantined, counts.dropped) == (10, 4, 5, 1)
    assert counts.by_reason == {"rule:even": 2, "rule:known": 1, "table:once": 3}
    assert counts.by_drop == {"rule:known": 1}
    assert counts.failed == {"even": 2, "table:once": 3}
    told = r"table_rules\.once: 3 of 10 rows share keys; the rule's action is few \(a quarter"
    with pytest.raises(RuleError, match=told):
        refuse_failed_rules(described, counts)


@pytest.mark.parametrize(("failing", "ends"), [(2, False), (3, True)])
def test_the_action_decides_how_many_rows_are_too_many(
    described: Pipeline, failing: int, ends: bool
) -> None:
    counts = Counts(
        raw=8, clean=8 - failing, quarantined=failing, dropped=0, by_reason={}, by_drop={},
        warned={}, failed={"even": failing},
    )  # fmt: skip
    if not ends:
        refuse_failed_rules(described, counts)
        return
    told = r"rules\.even: 3 of 8 rows fail 'n % 2 = 0', and its action is few \(a quarter at most\)"
    with pytest.raises(RuleError, match=told):
        refuse_failed_rules(described, counts)
