"""When the rules about tables are judged: keys before `clean` is written, all else after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pyspark.sql import DataFrame

from pipeline.clean.profile import Observed
from pipeline.clean.quality import read_measures
from pipeline.clean.table_rules import KINDS, Finding, Seen, ageing, judged_tables, shared_by_rules
from pipeline.clean.uniqueness import require_unique_keys
from pipeline.config import Pipeline, TableRule
from pipeline.lake import RUN, Table
from pipeline.sources.raw import reading

WARNINGS = "lakestorm.warnings"
"""Commits note under this key which rules about the table are broken, and how."""


@dataclass(frozen=True)
class TableJudge:
    """Judges accepted rows by the rules about the table: their keys first, then what was seen."""

    rules: Mapping[str, TableRule]
    seen: Seen

    @classmethod
    def before_writing(
        cls,
        good: DataFrame,
        pipeline: Pipeline,
        tables: Mapping[str, Table],
        now: datetime,
        *,
        present: DataFrame | None = None,
        of_app: str | None = None,
    ) -> TableJudge:
        """Aggregates the keys of accepted rows, and reads what the last version's run measured.

        Args:
            good: The accepted rows, from what is kept on disk.
            pipeline: The description.
            tables: The three.
            now: Time of the run.
            present: Rows of `clean` that stay.
            of_app: App whose runs each add rows, if the run is one of them.

        Raises:
            RuleError: `features.keys` does not tell rows apart.
        """
        with reading("source"):
            require_unique_keys(good, pipeline, present)
            shared = shared_by_rules(good, pipeline, present)
        before = {}
        if pipeline.clean.table_rules:
            before = read_measures(tables["quality"], tables["clean"].last_note(RUN) or "", of_app)
        return cls(pipeline.clean.table_rules, Seen({}, now, before, shared))

    def of_keys(self) -> list[Finding]:
        """What the rules about keys alone say: all that holds for a few rows among many."""
        keyed = {name: rule for name, rule in self.rules.items() if KINDS[rule.kind].key}
        return judged_tables(keyed, self.seen)

    def findings(self, observed: Observed) -> list[Finding]:
        """What the rules say, once the rows are written; raises RuleError as `judged_tables`."""
        return judged_tables(self.rules, replace(self.seen, observed=observed))


def stale_rules(
    pipeline: Pipeline, tables: Mapping[str, Table], now: datetime, of_app: str | None = None
) -> dict[str, str]:
    """Rules that an unchanged table breaks by now, and how.

    Raises:
        RuleError: One is broken whose action ends the run.
    """
    rules = ageing(pipeline.clean.table_rules)
    if not rules:
        return {}
    before = read_measures(tables["quality"], tables["clean"].last_note(RUN) or "", of_app)
    return warnings_of(judged_tables(rules, Seen({}, now, before)))


def warnings_of(findings: Sequence[Finding]) -> dict[str, str]:
    """Rules that are broken, and how."""
    return {f.name: f.judgement.problem or "" for f in findings if f.is_warning}
