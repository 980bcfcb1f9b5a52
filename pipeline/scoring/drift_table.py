"""The table `drift`: how unlike the training's the rows of each pass of scoring were.

A pass is known by its partition: the model, the version of its features, and whether it took what
was new or some periods again. It is written before the predictions, and replaces what an earlier
attempt at the same pass wrote; so a run that was killed and started again leaves each row once.

Each pass is a small file and a commit for each model, as with `schedule/runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipeline.lake import DataFile, Lake, Snapshot, commit

DRIFT = "drift"
NEW = "new"
"""The scope of a pass over what came since the last one."""
_PARTITIONS = ("model_name", "model_version", "source_version", "scope")
_MEASURES = (
    "psi",
    "missing_rate",
    "reference_missing_rate",
    "unknown_rate",
    "reference_unknown_rate",
)
_STORED: list[tuple[str, pa.DataType]] = [
    ("feature", pa.string()),
    ("kind", pa.string()),
    ("rows", pa.int64()),
    *((name, pa.float64()) for name in _MEASURES),
    ("verdict", pa.string()),
    ("reason", pa.string()),
    ("measured_at", pa.timestamp("us", tz="UTC")),
]
DRIFT_SCHEMA = pa.schema(
    [
        *_STORED,
        ("model_name", pa.string()),
        ("model_version", pa.int64()),
        ("source_version", pa.int64()),
        ("scope", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Which rows were measured, by which model."""

    model_name: str
    model_version: int
    source_version: int
    """Of the model's features."""
    scope: str
    """`NEW`, or the periods that were scored again, from the first to the last."""

    @property
    def partition(self) -> dict[str, str | None]:
        """The pass as the partition of its rows."""
        return {name: str(getattr(self, name)) for name in _PARTITIONS}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the table holds of one pass."""

    of: Pass
    measured_at: datetime
    rows: Sequence[dict[str, Any]]
    """In the order they were written; without the columns of the pass."""


def record(lake: Lake, of: Pass, rows: Sequence[dict[str, Any]], measured_at: datetime) -> None:
    """Writes the measurements of a pass in place of those of an earlier attempt at it.

    Args:
        lake: The lake; the table is made with the first measurements.
        of: The pass.
        rows: Values for the columns up to `reason`.
        measured_at: When the pass began, in UTC.

    Raises:
        LakeError: They cannot be committed.
    """
    table = lake.table(DRIFT)
    table.create(DRIFT_SCHEMA, _PARTITIONS, "drift of what was scored from what was trained on")
    stamped = [{**row, "measured_at": measured_at} for row in rows]
    with table.attempt() as attempt:
        files = attempt.write_arrow(
            pa.Table.from_pylist(stamped, schema=pa.schema(_STORED)), of.partition
        )
        commit(table, files, attempt=attempt, replace=[tuple(of.partition.values())])


def newest(lake: Lake, limit: int) -> list[Measured]:
    """The measurements of the last passes, the newest first; none before the first."""
    table = lake.table(DRIFT)
    if not table.exists:
        return []
    snapshot = table.snapshot()
    by_model: dict[tuple[str | None, ...], list[DataFile]] = {}
    for file in snapshot.files:
        model = (file.partition["model_name"], file.partition["model_version"])
        by_model.setdefault(model, []).append(file)
    # When they were measured stands in the files: only those that may be among the last are read.
    read = [
        _read(snapshot, file)
        for files in by_model.values()
        for file in sorted(files, key=_source_version, reverse=True)[:limit]
    ]
    return sorted(read, key=lambda each: each.measured_at, reverse=True)[:limit]


def _source_version(file: DataFile) -> int:
    return int(file.partition["source_version"] or 0)


def _read(snapshot: Snapshot, file: DataFile) -> Measured:
    rows = snapshot.of_files([file]).arrow([name for name, _ in _STORED]).to_pylist()
    text = {name: value or "" for name, value in file.partition.items()}
    return Measured(
        of=Pass(
            model_name=text["model_name"],
            model_version=int(text["model_version"]),
            source_version=int(text["source_version"]),
            scope=text["scope"],
        ),
        measured_at=rows[0]["measured_at"],
        rows=[{name: row[name] for name in row if name != "measured_at"} for row in rows],
    )
