"""By which settings the rows of `clean` were judged: increments under others are refused."""

from __future__ import annotations

from functools import reduce
from operator import or_

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.clean.contract import REASONS, carried, reasons_of
from pipeline.clean.rules import fails_column, with_rules
from pipeline.clean.verdict import CLEAN, VERDICT, with_verdict
from pipeline.config import Pipeline
from pipeline.lake import fingerprint

SETTINGS = "lakestorm.clean_settings"
"""Increments note under this key the fingerprint of contract and settings."""
BUT_RULES = "lakestorm.clean_settings_but_rules"
"""And under this one that of all of them but `clean.rules`."""


def settings_notes(pipeline: Pipeline) -> dict[str, str]:
    """What a commit notes of the settings."""
    contract = pipeline.source.model_dump(mode="json", exclude={"path"})
    # Not where the files lie: a lake may be moved.
    settings = pipeline.clean.model_dump(
        mode="json",
        exclude={
            "joins": {name: {"path"} for name in pipeline.clean.joins},
            "table_rules": {name: {"reference": {"path"}} for name in pipeline.clean.table_rules},
        },
    )
    unruled = {name: value for name, value in settings.items() if name != "rules"}
    return {
        SETTINGS: fingerprint(contract=contract, settings=settings),
        BUT_RULES: fingerprint(contract=contract, settings=unruled),
    }


def all_pass(clean: DataFrame, pipeline: Pipeline) -> bool:
    """Whether today's rules accept every row that `clean` holds; reads all of it."""
    rules = pipeline.clean.rules
    rows = clean.withColumn(REASONS, reasons_of({}))
    rows = with_verdict(with_rules(rows, rules, carried(pipeline)), rules)
    fatal = [F.col(fails_column(name)) for name, rule in rules.items() if rule.consequence.limits]
    return rows.where(reduce(or_, fatal, F.col(VERDICT) != CLEAN)).isEmpty()
