"""The fit: what each feature asks of the train split, in one pass over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, Row
from pyspark.sql import functions as F

from pipeline.config import Features
from pipeline.errors import SpecError
from pipeline.features.kinds.kind import Counted, FeatureSettings, Kind, Measured
from pipeline.features.label import bad_labels, is_bad_label
from pipeline.features.spec import FeatureSpec
from pipeline.features.splits import no_train_rows
from pipeline.features.transform import require_columns
from pipeline.features.weight import require_weights, weight_measures

ROWS, BAD_LABELS = "rows", "bad labels"
MAXIMUM_WORDS = 100_000

Asked = tuple[Kind, str, FeatureSettings]
"""A feature: its kind, its name and its settings."""


def fit(train: DataFrame, features: Features, pipeline: str, period_column: str) -> FeatureSpec:
    """Fits the spec.

    Args:
        train: Labelled rows of the train split with all columns that features are made of.
        features: The description.
        pipeline: Name of the pipeline.
        period_column: The partition of time that the table keeps.

    Raises:
        SpecError: There is no row, a label or weight is bad, a number has no value, or a
            vocabulary is too large.
    """
    asked = features.asked()
    require_columns(train, [(kind, how.reads(name), how) for kind, name, how in asked])
    measured, counted = _one_pass(train, features, asked)
    if not measured[ROWS]:
        raise no_train_rows(features.splits)
    if measured[BAD_LABELS]:
        raise bad_labels(features.label, measured[BAD_LABELS])
    require_weights(features.weight, measured)
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
            how.fitted(name, _measured_of(place, kind, name, measured, counted))
            for place, (kind, name, how) in enumerate(asked)
        ),
    )


def _measured_of(
    place: int, kind: Kind, name: str, measured: Mapping[str, Any], counted: Sequence[Row]
) -> Measured:
    """What was measured for the feature at a place."""
    prefix = _prefix(place)
    words = [Counted(row["word"], row["count"]) for row in counted if row["place"] == place]
    return Measured(
        values={
            key.removeprefix(prefix): v for key, v in measured.items() if key.startswith(prefix)
        },
        words=tuple(sorted(words)),
        rows=measured[ROWS],
        setting=f"features.{kind.name}.{name}",
    )


def _one_pass(
    train: DataFrame, features: Features, asked: Sequence[Asked]
) -> tuple[dict[str, Any], list[Row]]:
    """All measures by name, and (place of the feature, word, count) of the frequent words."""
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
    words = {place: how.words(name) for place, (_, name, how) in enumerate(asked)}
    wanted = {place: each for place, each in words.items() if each is not None}
    if not wanted:
        return _measured(train, measures), []
    observation = Observation()
    pairs = [
        F.struct(F.lit(place).alias("place"), each.value.alias("word"))
        for place, each in wanted.items()
    ]
    enough = F.lit(False)
    for place, each in wanted.items():
        enough |= (F.col("place") == place) & (F.col("count") >= each.minimum_count)
    # Not the data is collected but the vocabularies, which are part of the model.
    frequent = (
        train.observe(observation, *measures)
        .select(F.explode(F.array(*pairs)).alias("pair"))
        .select("pair.place", "pair.word")
        .where("word IS NOT NULL")
        .groupBy("place", "word")
        .count()
        .where(enough)
        .limit(MAXIMUM_WORDS + 1)
        .collect()
    )
    if len(frequent) > MAXIMUM_WORDS:
        raise SpecError(
            "features.categorical",
            f"the vocabularies hold more than {MAXIMUM_WORDS} words",
            "Raise minimum_count.",
        )
    # Without any word, nothing may have passed by the observer.
    return observation.get if frequent else _measured(train, measures), frequent


def _prefix(place: int) -> str:
    return f"{place} "


def _measured(train: DataFrame, measures: list[Column]) -> dict[str, Any]:
    return train.agg(*measures).head().asDict()  # type: ignore[union-attr]
