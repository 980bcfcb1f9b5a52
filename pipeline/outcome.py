"""What a stage did, in rows, seconds and table versions."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The report of one stage.

    `rows_in = rows_out + rows_quarantined + rows_dropped` holds for every stage.
    """

    stage: str
    table: str
    """Table written, or the registered model for `train`."""
    version: int
    """Version of that table (or model) after the stage."""
    rows_in: int
    rows_out: int
    seconds: float
    rows_quarantined: int = 0
    rows_dropped: int = 0
    unchanged: bool = False
    """True where the stage found its work already done and committed nothing."""
    counts: dict[str, int] = field(default_factory=dict)
    """Further row counts by name, such as rows by reason of rejection."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metrics by split, for `train`."""
    note: str = ""
    """One line for the reader of the report."""
