"""Overlap: entities, such as customers, with rows in train and rows in another split.

A network may know such an entity by heart, and its metrics are then better than they will be on
entities that it has never seen. It is counted and told; only where the splits are by group is it an
error, since there it cannot be.

`features.keys` are not counted: stage clean lets no two rows have one key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.config import SpecSplits, entity_of
from pipeline.errors import CountError
from pipeline.features.prepared import SPLIT
from pipeline.features.splits import TEST, TRAIN, VALIDATION

OVERLAPS = "lakestorm.overlaps"
"""Commits of `features` note under this key what was counted, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Values of a column that are in train and in another split, too."""

    column: str
    split: str
    """validation or test."""
    entities: int
    """Different values that are in both; nulls are none."""
    rows: int
    """Rows of the split that have such a value."""
    of_rows: int
    """All rows of the split."""

    @property
    def share(self) -> float:
        """Rows with such a value among those of the split."""
        return self.rows / self.of_rows if self.of_rows else 0.0

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        values = "1 value" if self.entities == 1 else f"{self.entities:,} values"
        are = "is" if self.entities == 1 else "are"
        return (
            f"{values} of {self.column} in {self.split} ({_percent(self.share)} of its rows) "
            f"{are} in train, too"
        )

    @property
    def counts(self) -> dict[str, int]:
        """The same as counts by name."""
        return {
            f"{self.column} in train and {self.split}": self.entities,
            f"{self.split} rows with a {self.column} of train": self.rows,
        }


def watched_columns(splits: SpecSplits, entities: Sequence[str]) -> tuple[str, ...]:
    """Columns whose values are counted, each once."""
    own = entity_of(splits)
    return tuple(dict.fromkeys((*entities, *(() if own is None else (own,)))))


def overlaps(rows: DataFrame, columns: Sequence[str]) -> tuple[Overlap, ...]:
    """Counts the values of columns that are in train and in another split.

    For each column, rows are aggregated by it; nothing but the column and the split is moved.

    Args:
        rows: All rows, with their split and the columns.
        columns: Columns to watch.
    """
    return tuple(overlap for column in columns for overlap in _overlaps_of(rows, column))


def require_none(found: Sequence[Overlap], splits: SpecSplits) -> None:
    """Refuses an overlap that the method of splitting rules out.

    Raises:
        CountError: An entity is in two splits all the same.
    """
    for overlap in found:
        if overlap.column == entity_of(splits) and overlap.entities:
            raise CountError(
                "stage featurize",
                f"splits are by {overlap.column}, yet {overlap.sentence}",
                "Nothing was committed; run again, and report it if it comes back.",
            )


def to_note(found: Sequence[Overlap]) -> str:
    """What a commit notes under `OVERLAPS`."""
    return json.dumps([asdict(overlap) for overlap in found])


def from_note(note: str | None) -> tuple[Overlap, ...]:
    """Reads what `to_note` wrote; nothing where a commit noted nothing."""
    return tuple(Overlap(**overlap) for overlap in json.loads(note or "[]"))


def _overlaps_of(rows: DataFrame, column: str) -> list[Overlap]:
    names = (TRAIN, VALIDATION, TEST)
    counted = (F.count_if(F.col(SPLIT) == name).alias(name) for name in names)
    # Of another name than a split, whatever the column is called.
    narrow = rows.select(F.col(column).alias("_entity"), SPLIT).where(F.col(SPLIT).isin(*names))
    by_entity = narrow.groupBy("_entity").agg(*counted)
    in_train = F.col("_entity").isNotNull() & (F.col(TRAIN) > 0)
    measures = []
    for split in names[1:]:
        both = in_train & (F.col(split) > 0)
        measures += [
            F.count_if(both).alias(f"{split} entities"),
            F.sum(F.when(both, F.col(split))).alias(f"{split} rows"),
            F.sum(split).alias(f"{split} of_rows"),
        ]
    found = by_entity.agg(*measures).head()
    told = {} if found is None else found.asDict()
    return [
        Overlap(
            column=column,
            split=split,
            **{fact: told.get(f"{split} {fact}") or 0 for fact in ("entities", "rows", "of_rows")},
        )
        for split in names[1:]
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %" if share else "0 %"
