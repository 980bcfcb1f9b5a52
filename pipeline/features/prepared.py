"""The prepared rows: all that features may be made of, with the label and the split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.config import History, Label, LaterEvents, SpecSplits
from pipeline.config.histories import history_columns
from pipeline.config.label import SPLIT
from pipeline.errors import SpecError
from pipeline.expressions import is_taken
from pipeline.features.derive import with_derived
from pipeline.features.histories import with_histories
from pipeline.features.label import absence, label_values
from pipeline.features.splits import REST, TEST, TRAIN, UNLABELLED, VALIDATION, split_of
from pipeline.features.weight import WEIGHT

__all__ = [
    "ABSENT",
    "HIDDEN_LABEL",
    "REST",
    "SPLIT",
    "TEST",
    "TRAIN",
    "UNLABELLED",
    "VALIDATION",
    "Preparation",
    "prepared",
]

ABSENT = "_absent"
HIDDEN_LABEL = "_label"


class Preparation(Protocol):
    """What a description and a fitted spec have in common."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that name a row."""

    @property
    def label(self) -> Label:
        """What is predicted."""

    @property
    def splits(self) -> SpecSplits:
        """How rows are divided."""

    @property
    def leakage(self) -> tuple[str, ...]:
        """Columns known only afterwards."""

    @property
    def derive(self) -> Mapping[str, str]:
        """New column to Spark SQL."""

    @property
    def weight(self) -> str | None:
        """Spark SQL of a row's weight; None where all rows count the same."""

    @property
    def histories(self) -> Mapping[str, History]:
        """What an entity's earlier events say."""

    @property
    def outcomes(self) -> Mapping[str, LaterEvents]:
        """What an entity's later events say; for the label only."""


def prepared(clean: DataFrame, how: Preparation, context: DataFrame | None = None) -> DataFrame:
    """All that features may be made of, with label and split.

    Args:
        clean: Rows of `clean`.
        how: Label, splits, leakage, histories, outcomes and derived columns.
        context: Further rows of `clean` that histories and outcomes need; None where `clean` holds
            them all.

    Returns:
        The columns of `clean` less the leakage, those of histories, the derived ones, `WEIGHT` if
        rows have weights, `ABSENT` (why there is no label, or null), `SPLIT` (train, validation,
        test, unlabelled or rest) and the label's columns: `int` for classes, else `float`.

    Raises:
        SpecError: An expression or the label's type is wrong; LeakageError where it cheats.
    """
    made = [column for column, _, _ in history_columns(how.histories)]
    of_others = {**how.histories, **how.outcomes}
    everything = with_histories(clean, of_others, how.leakage, context)
    # Of labels, which may look ahead, outcomes are part; of all else, they are leakage.
    clean = everything.drop(*made)
    leakage = (*how.leakage, *(column for column, _, _ in history_columns(how.outcomes)))
    labels = label_values(clean, how.label)
    # Names that no column of ours or of a user's has: an expression may be called like the label.
    hidden = {name: f"{HIDDEN_LABEL}_{place}" for place, name in enumerate(labels)}
    labelled = everything.withColumns({hidden[name]: value for name, value in labels.items()})
    absent = absence(clean, how.label, [F.col(name) for name in hidden.values()])
    labelled = labelled.withColumn(ABSENT, absent)
    frame = with_derived(labelled, how.derive, leakage, (*hidden.values(), ABSENT), how.weight)
    known = frame.drop(*hidden.values(), ABSENT, WEIGHT)
    for name in (*labels, SPLIT):
        if is_taken(name, known):
            setting = "features.label.name" if name in labels else "a split's name"
            raise SpecError(
                f"{setting} {name!r}", "is a column of clean or derived already", "Rename one."
            )
    drawn = split_of(known, how.splits, how.keys, [F.col(name) for name in hidden.values()])
    split = F.when(F.col(ABSENT).isNotNull(), UNLABELLED).otherwise(drawn)
    # Of several labels all are null, or none: whoever asks one has asked them all.
    whole = {name: F.when(F.col(ABSENT).isNull(), F.col(hidden[name])) for name in labels}
    return frame.withColumn(SPLIT, split).withColumns(whole).drop(*hidden.values())
