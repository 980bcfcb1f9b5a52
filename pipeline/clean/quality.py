"""Measures of quality, taken by `observe` in the pass that writes the rows anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from pipeline.clean.actions import Action
from pipeline.clean.contract import REASONS
from pipeline.clean.profile import Observed, measures_of
from pipeline.clean.rules import fails_column
from pipeline.clean.table_rules import Finding, is_judged_by_row
from pipeline.clean.verdict import (
    CLEAN,
    DROP,
    DROPPED_BY,
    DUPLICATE,
    QUARANTINE,
    VERDICT,
    breaks_column,
    rule_reason,
    table_reason,
)
from pipeline.config import Column as ContractColumn
from pipeline.config import Rule, TableRule
from pipeline.lake import Table

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
    """Rule whose action warns to clean rows that fail it; one about the table is `table:NAME`."""
    failed: Mapping[str, int]
    """Rule whose action may end the run to rows that fail it."""


def observed_verdicts(
    frame: DataFrame,
    columns: Mapping[str, ContractColumn],
    rules: Mapping[str, Rule],
    observation: Observation,
    table_rules: Mapping[str, TableRule] | None = None,
) -> DataFrame:
    """The same frame; `counts_of(observation, ...)` knows more once an action has run."""
    is_verdict = {name: F.col(VERDICT) == name for name in (CLEAN, QUARANTINE, DROP)}
    measures: list[Column] = [F.count(F.lit(1)).alias("raw")]
    measures += [F.count_if(condition).alias(name) for name, condition in is_verdict.items()]
    by_row = {n: r for n, r in (table_rules or {}).items() if is_judged_by_row(r)}
    reasons = _reasons(columns, rules)
    reasons += [table_reason(name) for name, rule in by_row.items() if rule.takes_rows_out]
    for reason in reasons:
        hit = is_verdict[QUARANTINE] & F.array_contains(REASONS, reason)
        measures.append(F.count_if(hit).alias(f"reason {reason}"))
    judged: list[tuple[str, str, Column, Action]] = [
        *((n, rule_reason(n), F.col(fails_column(n)), r.consequence) for n, r in rules.items()),
        *(
            (table_reason(n), table_reason(n), F.col(breaks_column(n)), r.consequence)
            for n, r in by_row.items()
        ),
    ]
    for name, reason, fails, action in judged:
        if action.verdict == DROP:
            by = F.count_if(F.col(DROPPED_BY) == reason)
            measures.append(by.alias(f"drop {reason}"))
        if action.warns:
            measures.append(F.count_if(is_verdict[CLEAN] & fails).alias(f"warn {name}"))
        if action.limits:
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


def quality_rows(
    counts: Counts,
    by_column: Observed,
    run: str,
    measured_at: datetime,
    findings: Sequence[Finding] = (),
) -> pa.Table:
    """All measures as rows of the table `quality`.

    Args:
        counts: Rows by verdict and reason.
        by_column: What `observed_columns` observed.
        run: Fingerprint of the run.
        measured_at: Time of the run, in UTC.
        findings: What rules about the table said.
    """
    rows: list[tuple[str, str | None, str, float]] = [
        ("raw", None, "rows", counts.raw),
        ("clean", None, "rows", counts.clean),
        ("quarantine", None, "rows", counts.quarantined),
        ("dropped", None, "rows", counts.dropped),
        *(("quarantine", reason, "rows", n) for reason, n in counts.by_reason.items()),
        *(("dropped", reason, "rows", n) for reason, n in counts.by_drop.items()),
        *(("clean", _subject(name), "rows warned", n) for name, n in counts.warned.items()),
        *(("clean", column, measure, n) for column, measure, n in measures_of(by_column)),
    ]
    for finding in findings:
        subject, judgement = table_reason(finding.name), finding.judgement
        rows += [("clean", subject, name, value) for name, value in judgement.measures.items()]
        if finding.is_warning:
            measure = "warned" if judgement.rows is None else "rows warned"
            rows.append(("clean", subject, measure, judgement.rows or 1))
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


_SPREAD = ("bins: ", "categories: ")


def read_measures(
    quality: Table, run: str, of_app: str | None = None
) -> dict[tuple[str, str], float]:
    """What a run measured of the columns of `clean`: column and measure to value.

    Args:
        quality: The table; it may be missing.
        run: The run.
        of_app: App whose other runs count, as each of them added rows: for `newest`, and for the
            spread of a column, which is that of the last run that had rows.
    """
    if not quality.exists:
        return {}
    rows = quality.snapshot().arrow(QUALITY_SCHEMA.names)
    rows = rows.filter(pc.and_(pc.equal(rows["table"], "clean"), pc.is_valid(rows["subject"])))
    found: dict[tuple[str, str], float] = {}
    spread: dict[str, tuple[str, dict[tuple[str, str], float]]] = {}
    for row in rows.sort_by("measured_at").to_pylist():
        place, value = (row["subject"], row["measure"]), row["value"]
        is_own = row["run"] == run
        adds_to_it = of_app is not None and row["run"].startswith(f"{of_app}/")
        if row["measure"] == "newest" and (is_own or adds_to_it):
            found[place] = max(value, found.get(place, value))
        elif row["measure"].startswith(_SPREAD) and (is_own or adds_to_it):
            known = spread.get(row["subject"], ("", {}))
            same = known[1] if known[0] == row["run"] else {}
            spread[row["subject"]] = (row["run"], {**same, place: value})
        elif is_own:
            found[place] = value
    return found | {place: n for _, counts in spread.values() for place, n in counts.items()}


def _subject(warned: str) -> str:
    return warned if warned.startswith(table_reason("")) else rule_reason(warned)


def _reasons(columns: Mapping[str, ContractColumn], rules: Mapping[str, Rule]) -> list[str]:
    return [
        "malformed",
        *(f"cast:{name}" for name in columns),
        *(f"required:{name}" for name, column in columns.items() if column.required),
        *(rule_reason(n) for n, rule in rules.items() if rule.consequence.takes_rows_out),
        DUPLICATE,
    ]
