"""The measures that `clean` left in the table `quality`, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.clean.quality import QUALITY_SCHEMA
from pipeline.errors import TableNotFoundError
from pipeline.lake import RUN, Snapshot, Table


@dataclass(frozen=True, kw_only=True)
class ColumnQuality:
    """One column of `clean`."""

    name: str
    kind: str
    """Its type."""
    nulls: int
    numbers: Mapping[str, float]
    """`minimum`, `mean` and `maximum`; empty for what is no number, or all null."""


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
    rows = quality.arrow(QUALITY_SCHEMA.names)
    rows = rows.filter(pc.equal(rows["run"], clean.last_note(RUN) or ""))
    rows = rows.filter(pc.equal(rows["measured_at"], pc.max(rows["measured_at"])))
    if not rows.num_rows:
        raise TableNotFoundError(
            "table quality",
            f"holds no measures of version {schema.version} of clean",
            "Run `lakestorm clean` again.",
        )
    measured: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows.to_pylist():
        of_subject = measured.setdefault((row["table"], row["subject"] or ""), {})
        of_subject[row["measure"]] = row["value"]

    def total(table: str) -> int:
        return int(measured.get((table, ""), {}).get("rows", 0))

    return Quality(
        raw=total("raw"),
        clean=total("clean"),
        quarantined=total("quarantine"),
        dropped=total("dropped"),
        reasons=_reasons(measured),
        columns=_columns(measured, schema),
    )


def _reasons(measured: Mapping[tuple[str, str], Mapping[str, float]]) -> tuple[Reason, ...]:
    found = []
    for (table, subject), values in measured.items():
        fate = "warned" if "rows warned" in values else table
        rows = values.get("rows warned", values.get("rows"))
        if subject and rows is not None:
            found.append(Reason(fate=fate, name=subject, rows=int(rows)))
    return tuple(sorted(found, key=lambda reason: (reason.fate, -reason.rows, reason.name)))


def _columns(
    measured: Mapping[tuple[str, str], Mapping[str, float]], clean: Snapshot
) -> tuple[ColumnQuality, ...]:
    found = []
    for field in clean.schema:
        values = measured.get(("clean", field.name), {})
        if "nulls" in values:
            numbers = {
                name: values[name] for name in ("minimum", "mean", "maximum") if name in values
            }
            found.append(
                ColumnQuality(
                    name=field.name,
                    kind=_plain(str(field.type)),
                    nulls=int(values["nulls"]),
                    numbers=numbers,
                )
            )
    return tuple(found)


def _plain(kind: str) -> str:
    return "timestamp" if kind.startswith("timestamp") else kind
