"""The fit: what each feature asks of the train split, in one pass over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from pipeline.config import Features
from pipeline.errors import SpecError
from pipeline.features.kinds.kind import (
    ROW_HASH,
    TARGET,
    Counted,
    FeatureSettings,
    Kind,
    Measured,
    Stored,
    Words,
)
from pipeline.features.label import bad_labels, is_bad_label
from pipeline.features.spec import FeatureSpec
from pipeline.features.splits import no_train_rows
from pipeline.features.transform import require_columns, row_hash
from pipeline.features.weight import require_weights, weight_measures
from pipeline.features.words import (
    OCCURRENCES,
    PLACE,
    VALUES,
    WORD,
    WordCounts,
    counted,
    measured_alone,
    tally,
    with_payload,
)

ROWS, BAD_LABELS = "rows", "bad labels"
INLINE_WORDS = 30_000
"""A feature with more words has them in a table of the lake. A third of where both ways cost alike
(benchmarks/vocabulary.py): what is in a spec is in every plan and every model's files, too."""

Asked = tuple[Kind, str, FeatureSettings]
"""A feature: its kind, its name and its settings."""


class Store(Protocol):
    """Where vocabularies go that are too large for a spec."""

    def store(self, words: DataFrame, features: Mapping[int, str]) -> Mapping[int, Stored]:
        """Keeps the words of some features; see `pipeline.features.vocabularies`."""


def fit(
    train: DataFrame,
    features: Features,
    pipeline: str,
    period_column: str,
    store: Store | None = None,
) -> FeatureSpec:
    """Fits the spec.

    Args:
        train: Labelled rows of the train split with all columns that features are made of.
        features: The description.
        pipeline: Name of the pipeline.
        period_column: The partition of time that the table keeps.
        store: Where vocabularies of more than `INLINE_WORDS` words go.

    Raises:
        SpecError: There is no row, a label or weight is bad, a number has no value, or a
            vocabulary is too large and there is no store.
    """
    asked = features.asked()
    require_columns(train, [(kind, how.reads(name), how) for kind, name, how in asked])
    return FeatureSpec(
        pipeline=pipeline,
        keys=features.keys,
        period_column=period_column,
        label=features.label,
        splits=features.splits,
        leakage=features.leakage,
        derive=dict(features.derive),
        weight=features.weight,
        histories=dict(features.histories),
        outcomes=dict(features.outcomes),
        parts=tuple(
            how.fitted(name, each)
            for (_, name, how), each in zip(
                asked, _measured(train, features, asked, store), strict=True
            )
        ),
    )


def _measured(
    train: DataFrame, features: Features, asked: Sequence[Asked], store: Store | None
) -> list[Measured]:
    """What was measured for each feature."""
    words = {place: how.words(name) for place, (_, name, how) in enumerate(asked)}
    wanted = {place: each for place, each in words.items() if each is not None}
    train = _with_folds(train, features, wanted)
    measures = [
        F.count(F.lit(1)).alias(ROWS),
        F.count_if(is_bad_label(features.label)).alias(BAD_LABELS),
        *weight_measures(features.weight),
        *(
            measure.alias(_prefix(place) + key)
            for place, (_, name, how) in enumerate(asked)
            for key, measure in how.measures(name).items()
        ),
    ]
    if not wanted:
        measured = measured_alone(train, measures)
        _require_sound(measured, features)
        return [_of_feature(place, each, measured) for place, each in enumerate(asked)]
    with counted(train, measures, wanted, INLINE_WORDS) as (measured, counts):
        _require_sound(measured, features)
        each = [_of_feature(place, each, measured) for place, each in enumerate(asked)]
        return _with_words(each, asked, counts, store)


def _with_folds(train: DataFrame, features: Features, wanted: Mapping[int, Words]) -> DataFrame:
    """Adds the hash of the keys and the label, if a feature learns from the label."""
    if not any(each.folds for each in wanted.values()):
        return train
    label = F.col(features.label.columns[0]).cast("double")
    return train.withColumns({ROW_HASH: row_hash(features.keys), TARGET: label})


def _require_sound(measured: Mapping[str, Any], features: Features) -> None:
    if not measured[ROWS]:
        raise no_train_rows(features.splits)
    if measured[BAD_LABELS]:
        raise bad_labels(features.label, measured[BAD_LABELS])
    require_weights(features.weight, measured)


def _of_feature(place: int, asked: Asked, measured: Mapping[str, Any]) -> Measured:
    """What was measured for the feature at a place, its words left out."""
    prefix, (kind, name, _) = _prefix(place), asked
    return Measured(
        values={
            key.removeprefix(prefix): v for key, v in measured.items() if key.startswith(prefix)
        },
        words=(),
        rows=measured[ROWS],
        setting=f"features.{kind.name}.{name}",
    )


def _with_words(
    measured: Sequence[Measured], asked: Sequence[Asked], counts: WordCounts, store: Store | None
) -> list[Measured]:
    """Adds the words of small vocabularies, and where those of large ones are."""
    payloads = {
        place: payload
        for place in counts.words
        if (payload := asked[place][2].payload(measured[place], tally())) is not None
    }
    words = with_payload(counts, payloads)
    large = {
        place: measured[place].setting.removeprefix("features.")
        for place, number in counts.words.items()
        if number > INLINE_WORDS
    }
    if large and store is None:
        raise SpecError(
            f"features.{next(iter(large.values()))}",
            f"has more than {INLINE_WORDS} words, and no lake to keep them in",
            "Raise minimum_count.",
        )
    stored = store.store(words, large) if large and store else {}
    rows: Iterable[Row] = counts.collected or ()
    if counts.collected is None or payloads or large:
        small = [place for place, number in counts.words.items() if 0 < number <= INLINE_WORDS]
        rows = words.where(F.col(PLACE).isin(*small)).collect() if small else ()
    inline = _by_place(rows)
    return [
        replace(each, words=inline.get(place, ()), stored=stored.get(place))
        for place, each in enumerate(measured)
    ]


def _by_place(rows: Iterable[Row]) -> Mapping[int, tuple[Counted, ...]]:
    """The words of each feature, in order: not data, but a part of the model."""
    found: dict[int, list[Counted]] = {}
    for row in rows:
        values = row.asDict().get(VALUES) or ()
        one = Counted(row[WORD], row[OCCURRENCES], tuple(values))
        found.setdefault(row[PLACE], []).append(one)
    return {place: tuple(sorted(each)) for place, each in found.items()}


def _prefix(place: int) -> str:
    return f"{place} "
