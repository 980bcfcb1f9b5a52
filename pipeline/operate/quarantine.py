"""What is in quarantine, for people as a table and for programs as plain values; without Spark.

The table's files are read one after the other, a batch at a time: of each reason its count and its
first few rows are in memory, whatever the table holds. First is by file and place in it, so that
the same rows are shown each time.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table as Grid

from pipeline.config import OTHER_COLUMNS, Pipeline, Source, TableRule
from pipeline.errors import ConfigError, one_line
from pipeline.lake import Snapshot
from pipeline.sources.raw import MALFORMED

HIDDEN = "***"
"""Stands for a sensitive value."""
EXAMPLES = 3
"""Of each reason, unless asked for more or fewer."""
WIDTH = 80
"""Characters of an example that people are shown."""
_BATCH_ROWS = 4_096
_PLACE = [("source_file", "ascending"), ("source_position", "ascending"), ("row", "ascending")]


@dataclass(frozen=True)
class Example:
    """One row of quarantine."""

    source_file: str
    source_position: int | None
    reasons: tuple[str, ...]
    row: Mapping[str, Any]
    """Column to value, as JSON has it."""
    unreadable: Mapping[str, str]
    """Column to the text that did not cast."""

    @classmethod
    def of(cls, stored: Mapping[str, Any], source: Source) -> Self:
        """A row as it is stored, with `HIDDEN` in place of what must not be seen."""
        row: dict[str, Any] = json.loads(stored["row"])
        texts: dict[str, str] = json.loads(stored["unreadable"] or "{}")
        hidden = {name for name in (*row, *texts) if _is_sensitive(source, name)}
        return cls(
            stored["source_file"],
            stored["source_position"],
            tuple(stored["reasons"]),
            {k: HIDDEN if k in hidden and v is not None else v for k, v in row.items()},
            {k: HIDDEN if k in hidden else v for k, v in texts.items()},
        )

    def line(self, first: Sequence[str]) -> str:
        """The row in one short line, some columns before the others."""
        values = {**self.row, **self.unreadable}
        names = dict.fromkeys((*(name for name in first if name in values), *values))
        spelled = (
            f"{name}={values[name] if isinstance(values[name], str) else json.dumps(values[name])}"
            for name in names
            if values[name] is not None or name in first
        )
        # Cut before and after: a value may be a book.
        line = one_line(" ".join(text[: 4 * WIDTH] for text in spelled))
        return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def _is_sensitive(source: Source, name: str) -> bool:
    if name in (MALFORMED, OTHER_COLUMNS):  # a line with all its values, or columns not known
        return any(each.sensitive for each in source.columns.values())
    column = source.column_of(name)
    return column is not None and column.sensitive


@dataclass
class Rejects:
    """The rows of one reason."""

    reason: str
    rows: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Quarantine:
    """What is in quarantine at a version."""

    version: int
    rows: int
    """A row with two reasons counts once."""
    reasons: tuple[Rejects, ...]
    """Most rows first; a row with two reasons is in both."""


def look_into(
    quarantine: Snapshot, pipeline: Pipeline, *, reason: str | None, limit: int
) -> Quarantine:
    """Counts the rows by reason, and finds the first few of each.

    Args:
        quarantine: The table at a version.
        pipeline: Its contract says which values must not be seen.
        reason: The only one wanted, or None for all.
        limit: Examples of each reason.

    Raises:
        ConfigError: No row has that reason.
    """
    counts: Counter[str] = Counter()
    first: dict[str, pa.Table] = {}
    for batch in _batches(quarantine):
        for name, rows in _by_reason(batch):
            counts[name] += rows.num_rows
            if reason in (None, name):
                known = [first[name]] if name in first else []
                joined = pa.concat_tables([*known, rows])
                first[name] = joined.take(pc.select_k_unstable(joined, limit, _PLACE))
    if reason is not None and reason not in counts:
        raise ConfigError(
            "--reason",
            f"no row is in quarantine for {reason!r}",
            f"Reasons: {', '.join(sorted(counts)) or 'none, it is empty'}.",
        )
    found = [
        Rejects(name, counts[name], [Example.of(row, pipeline.source) for row in rows.to_pylist()])
        for name, rows in first.items()
    ]
    found.sort(key=lambda each: (-each.rows, each.reason))
    return Quarantine(quarantine.version, quarantine.rows, tuple(found))


def _batches(quarantine: Snapshot) -> Iterator[pa.Table]:
    for file in quarantine.files:
        with quarantine.folder.open(file.path) as opened:
            for batch in pq.ParquetFile(opened).iter_batches(_BATCH_ROWS):
                yield pa.Table.from_batches([batch])


def _by_reason(batch: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each reason that occurs in a batch."""
    reasons = batch["reasons"].combine_chunks()
    parents, names = pc.list_parent_indices(reasons), pc.list_flatten(reasons)
    for name in pc.unique(names).to_pylist():
        yield name, batch.take(parents.filter(pc.equal(names, name)))


def listed(found: Quarantine) -> dict[str, Any]:
    """The same as JSON can hold it."""
    return {
        "version": found.version,
        "rows": found.rows,
        "reasons": [
            {
                "reason": each.reason,
                "rows": each.rows,
                "examples": [
                    {
                        "source_file": example.source_file,
                        "source_position": example.source_position,
                        "reasons": list(example.reasons),
                        "row": dict(example.row),
                        "unreadable": dict(example.unreadable),
                    }
                    for example in each.examples
                ],
            }
            for each in found.reasons
        ],
    }


def quarantine_grid(found: Quarantine, pipeline: Pipeline) -> Grid:
    """The same as a table: what a reason is about comes first in its examples."""
    grid = Grid(
        title=f"quarantine, version {found.version}: {found.rows:,} rows", title_justify="left"
    )
    grid.add_column("reason")
    grid.add_column("rows", justify="right")
    for name in ("from", "for example"):
        grid.add_column(name, no_wrap=True)
    for each in found.reasons:
        columns = _columns_of(each.reason, pipeline)
        lines = [example.line(columns) for example in each.examples]
        grid.add_row(
            _safe(each.reason),
            f"{each.rows:,}",
            "\n".join(_origin(example) for example in each.examples),
            "\n".join(map(escape, lines)),
        )
        grid.add_section()
    return grid


def _columns_of(reason: str, pipeline: Pipeline) -> list[str]:
    """The columns that a reason is about."""
    kind, _, name = reason.partition(":")
    if kind in ("cast", "required"):
        return [name]
    if reason == "malformed":
        return [MALFORMED]
    if reason == "duplicate" and pipeline.clean.dedupe is not None:
        return [*pipeline.clean.dedupe.keys, *pipeline.clean.dedupe.latest_by]
    if kind == "table":
        return _columns_of_rule(pipeline.clean.table_rules.get(name), pipeline)
    rule = pipeline.clean.rules.get(name)
    words = set(re.findall(r"\w+", rule.check)) if rule is not None else set()
    return [column for column in pipeline.source.columns if column in words]


def _columns_of_rule(rule: TableRule | None, pipeline: Pipeline) -> list[str]:
    """The columns of a rule about the table that takes rows out."""
    if rule is None or rule.reference is None:
        return list(rule.unique or ()) if rule is not None else []
    named = rule.reference.join
    return list(rule.reference.on if named is None else pipeline.clean.joins[named].on)


def _origin(example: Example) -> str:
    place = "" if example.source_position is None else f":{example.source_position}"
    return _safe(example.source_file) + place


def _safe(text: str) -> str:
    line = one_line(text)
    return escape(line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}...")
