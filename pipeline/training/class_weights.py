"""Weights of classes: what the rows of each count in the training's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.config import Label
from pipeline.errors import TrainingError
from pipeline.lake import Snapshot

ClassWeights = Literal["balanced"] | Mapping[str, float] | None
"""The setting `train.class_weights`."""


def class_weights_of(setting: ClassWeights, label: Label, train: Snapshot) -> tuple[float, ...]:
    """The weight of each class, in the order of its number in the label.

    Args:
        setting: As in the YAML, checked against the label.
        label: Names the classes.
        train: The train split, whose labels are counted for `balanced`.

    Returns:
        Nothing where all classes count the same.

    Raises:
        TrainingError: A class to balance has no row.
    """
    classes = label.definition.class_names(label)
    if setting is None:
        return ()
    if setting == "balanced":
        counts = _rows_by_class(train, label.columns[0], len(classes))
        return balanced(counts, [names[0] for names in classes])
    named = {name: place for place, names in enumerate(classes) for name in names}
    given = {named[name]: weight for name, weight in setting.items()}
    return tuple(given.get(place, 1.0) for place in range(len(classes)))


def balanced(counts: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[float, ...]:
    """Weights that give each class the same sum.

    Args:
        counts: Rows of each class.
        names: Of the classes, for the message.

    Returns:
        All rows, divided by the number of classes times the rows of the class.

    Raises:
        TrainingError: A class has no row.

    Source: King and Zeng, Logistic Regression in Rare Events Data (2001); scikit-learn's
        `compute_class_weight('balanced')`.
    """
    if not counts.all():
        raise TrainingError(
            "train.class_weights",
            f"is balanced, and class {names[int(counts.argmin())]!r} has no row in the train split",
            "Name the weights, or choose features.splits.train so that it has rows of each class.",
        )
    return tuple((counts.sum() / (len(counts) * counts)).tolist())


def _rows_by_class(train: Snapshot, column: str, classes: int) -> npt.NDArray[np.int64]:
    """Rows of each class, counted file by file."""
    counts = np.zeros(classes, np.int64)
    for file in train.files:
        labels = train.read(file, [column])[column].to_numpy().astype(np.int64)
        counts += np.bincount(labels, minlength=classes)
    return counts
