"""Measures of quality, taken by `observe` in the pass that writes the rows anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType

from pipeline.clean.contract import REASONS
from pipeline.clean.rules import fails_column
from pipeline.clean.verdict import (
    CLEAN,
    DROP,
    DROPPED_BY,
    DUPLICATE,
    QUARANTINE,
    VERDICT,
    rule_reason,
)
from pipeline.config import Column as ContractColumn
from pipeline.config import Rule

QUALITY_SCHEMA = pa.schema(
    [
        ("measured_at", pa.timestamp("us", tz="UTC")),
        ("run", pa.string()),
        ("table", pa.string()),
        ("subject", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Counts:
    """Rows by verdict and by reason."""

    raw: int
    clean: int
    quarantined: int
    dropped: int
    by_reason: Mapping[str, int]
    """Reason of quarantine to rows; a row with two reasons counts under both."""
    by_drop: Mapping[str, int]
    """Rule to rows dropped, each under the first rule it failed."""
    warned: Mapping[str, int]
    """Rule of action `warn` to clean rows that fail it."""
    failed: Mapping[str, int]
    """Rule of action `fail` to rows that fail it."""


def observed_verdicts(
    frame: DataFrame,
    columns: Mapping[str, ContractColumn],
    rules: Mapping[str, Rule],
    observation: Observation,
) -> DataFrame:
    """The same frame; `counts_of(observation, ...)` knows more once an action has run."""
    is_verdict = {name: F.col(VERDICT) == name for name in (CLEAN, QUARANTINE, DROP)}
    measures: list[Column] = [F.count(F.lit(1)).alias("raw")]
    measures += [F.count_if(condition).alias(name) for name, condition in is_verdict.items()]
    for reason in _reasons(columns, rules):
        hit = is_verdict[QUARANTINE] & F.array_contains(REASONS, reason)
        measures.append(F.count_if(hit).alias(f"reason {reason}"))
    for name, rule in rules.items():
        fails = F.col(fails_column(name))
        if rule.action == "drop":
            by = F.count_if(F.col(DROPPED_BY) == rule_reason(name))
            measures.append(by.alias(f"drop {rule_reason(name)}"))
        if rule.action == "warn":
            measures.append(F.count_if(is_verdict[CLEAN] & fails).alias(f"warn {name}"))
        if rule.action == "fail":
            measures.append(F.count_if(fails).alias(f"fail {name}"))
    return frame.observe(observation, *measures)


def counts_of(observation: Observation) -> Counts:
    """The counts, once the frame has been written or cached."""
    seen = observation.get

    def section(prefix: str) -> dict[str, int]:
        named = {
            name.removeprefix(f"{prefix} "): n
            for name, n in seen.items()
            if name.startswith(f"{prefix} ")
        }
        return {name: n for name, n in named.items() if n}

    return Counts(
        raw=seen["raw"],
        clean=seen[CLEAN],
        quarantined=seen[QUARANTINE],
        dropped=seen[DROP],
        by_reason=section("reason"),
        by_drop=section("drop"),
        warned=section("warn"),
        failed=section("fail"),
    )


def observed_columns(clean: DataFrame, observation: Observation) -> DataFrame:
    """The same frame, measured by column: nulls, and for numbers minimum, maximum and mean."""
    measures: list[Column] = [F.count(F.lit(1)).alias("rows")]
    for field in clean.schema:
        column = F.col(field.name)
        measures.append(F.count_if(column.isNull()).alias(f"nulls {field.name}"))
        if isinstance(field.dataType, NumericType):
            number = column.cast("double")
            measures += [
                F.min(number).alias(f"minimum {field.name}"),
                F.max(number).alias(f"maximum {field.name}"),
                F.avg(number).alias(f"mean {field.name}"),
            ]
    return clean.observe(observation, *measures)


def quality_rows(
    counts: Counts, by_column: Mapping[str, float | None], run: str, measured_at: datetime
) -> pa.Table:
    """All measures as rows of the table `quality`.

    Args:
        counts: Rows by verdict and reason.
        by_column: What `observed_columns` observed.
        run: Fingerprint of the run.
        measured_at: Time of the run, in UTC.
    """
    rows: list[tuple[str, str | None, str, float]] = [
        ("raw", None, "rows", counts.raw),
        ("clean", None, "rows", counts.clean),
        ("quarantine", None, "rows", counts.quarantined),
        ("dropped", None, "rows", counts.dropped),
        *(("quarantine", reason, "rows", n) for reason, n in counts.by_reason.items()),
        *(("dropped", reason, "rows", n) for reason, n in counts.by_drop.items()),
        *(("clean", rule_reason(name), "rows warned", n) for name, n in counts.warned.items()),
    ]
    for name, value in by_column.items():
        measure, _, column = name.partition(" ")
        if column and value is not None:
            rows.append(("clean", column, measure, value))
    return pa.Table.from_pylist(
        [
            {
                "measured_at": measured_at,
                "run": run,
                "table": table,
                "subject": subject,
                "measure": measure,
                "value": float(value),
            }
            for table, subject, measure, value in rows
        ],
        schema=QUALITY_SCHEMA,
    )


def _reasons(columns: Mapping[str, ContractColumn], rules: Mapping[str, Rule]) -> list[str]:
    return [
        "malformed",
        *(f"cast:{name}" for name in columns),
        *(f"required:{name}" for name, column in columns.items() if column.required),
        *(rule_reason(n) for n, rule in rules.items() if rule.action in ("quarantine", "drop")),
        DUPLICATE,
    ]
