"""The measures that `clean` left in the table `quality`, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clean.profile import QUANTILES, TOP, quantile_measure
from pipeline.clean.quality import QUALITY_SCHEMA
from pipeline.errors import TableNotFoundError
from pipeline.lake import RUN, Snapshot, Table

Measures: TypeAlias = Mapping[tuple[str, str], Mapping[str, float]]
"""Table and subject to measure to value."""


@dataclass(frozen=True, kw_only=True)
class ColumnQuality:
    """One column of `clean`."""

    name: str
    kind: str
    """Its type."""
    nulls: int
    measures: Mapping[str, float]
    """All that was measured of it, by the names in `quality`."""
    before: Mapping[str, float]
    """The same of the version before; empty where there is none."""

    @property
    def quantiles(self) -> Sequence[tuple[str, str]]:
        """Share of the rows, such as `5%`, and the measure of the value that so many reach."""
        named = [(f"{share:.0%}", quantile_measure(share)) for share in QUANTILES]
        return [(share, measure) for share, measure in named if measure in self.measures]

    @property
    def top(self) -> Sequence[tuple[str, str]]:
        """Frequent values, and the measure of their rows, the most frequent first."""
        start = f"{TOP}: "
        found = [
            (name.removeprefix(start), name) for name in self.measures if name.startswith(start)
        ]
        return sorted(found, key=lambda pair: (-self.measures[pair[1]], pair[0]))


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why rows are not in `clean`, or are there with a warning."""

    fate: str
    """`quarantine`, `dropped` or `warned`."""
    name: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What `clean` measured in the run that wrote its present version."""

    raw: int
    clean: int
    quarantined: int
    dropped: int
    reasons: tuple[Reason, ...]
    columns: tuple[ColumnQuality, ...]
    broken: tuple[str, ...] = ()
    """Rules about the table that do not hold and are at no row's fault; their action is `warn`."""
    clean_before: int | None = None
    """Clean rows of the version before; None where there is none."""

    @property
    def accounted(self) -> bool:
        """Whether every raw row is somewhere."""
        return self.raw == self.clean + self.quarantined + self.dropped


def read_quality(quality: Snapshot, clean: Table, schema: Snapshot) -> Quality:
    """The newest measures of the run that wrote `clean`.

    Args:
        quality: The table `quality`.
        clean: The table `clean`, whose commit names its run.
        schema: `clean` at its pinned version.

    Raises:
        TableNotFoundError: That run left none.
    """
    all_rows = quality.arrow(QUALITY_SCHEMA.names)
    is_own = pc.equal(all_rows["run"], clean.last_note(RUN) or "")
    rows = _newest(all_rows.filter(is_own))
    if not rows.num_rows:
        raise TableNotFoundError(
            "table quality",
            f"holds no measures of version {schema.version} of clean",
            "Run `lakestorm clean` again.",
        )
    others = all_rows.filter(pc.invert(is_own))
    earlier = others.filter(pc.less(others["measured_at"], rows["measured_at"][0]))
    measured, before = _by_subject(rows), _by_subject(_newest(earlier))

    def total(table: str) -> int:
        return int(measured.get((table, ""), {}).get("rows", 0))

    rows_before = before.get(("clean", ""), {}).get("rows")

    return Quality(
        raw=total("raw"),
        clean=total("clean"),
        quarantined=total("quarantine"),
        dropped=total("dropped"),
        reasons=_reasons(measured),
        columns=_columns(measured, before, schema),
        broken=tuple(sorted(s for (_, s), values in measured.items() if "warned" in values)),
        clean_before=None if rows_before is None else int(rows_before),
    )


def _newest(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.equal(rows["measured_at"], pc.max(rows["measured_at"])))


def _by_subject(rows: pa.Table) -> Measures:
    measured: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows.to_pylist():
        of_subject = measured.setdefault((row["table"], row["subject"] or ""), {})
        of_subject[row["measure"]] = row["value"]
    return measured


def _reasons(measured: Measures) -> tuple[Reason, ...]:
    found = []
    for (table, subject), values in measured.items():
        fate = "warned" if "rows warned" in values else table
        rows = values.get("rows warned", values.get("rows"))
        if subject and rows is not None:
            found.append(Reason(fate=fate, name=subject, rows=int(rows)))
    return tuple(sorted(found, key=lambda reason: (reason.fate, -reason.rows, reason.name)))


def _columns(measured: Measures, before: Measures, clean: Snapshot) -> tuple[ColumnQuality, ...]:
    found = []
    for field in clean.schema:
        values = measured.get(("clean", field.name), {})
        if "nulls" in values:
            found.append(
                ColumnQuality(
                    name=field.name,
                    kind=_plain(str(field.type)),
                    nulls=int(values["nulls"]),
                    measures=values,
                    before=before.get(("clean", field.name), {}),
                )
            )
    return tuple(found)


def _plain(kind: str) -> str:
    return "timestamp" if kind.startswith("timestamp") else kind
