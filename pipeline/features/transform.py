"""The transform: a fitted spec as column expressions, the same for training and for scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.errors import SpecError
from pipeline.features.kinds import FeatureSettings, Fitted, Kind, kinds
from pipeline.features.kinds.kind import IN_TRAIN, ROW_HASH, Stored
from pipeline.features.kinds.values import number_of
from pipeline.features.prepared import SPLIT, TRAIN
from pipeline.features.spec import BITS_PER_COLUMN, FeatureSpec

Wanted = tuple[Kind, tuple[str, ...], FeatureSettings | Fitted]
"""A feature: its kind, the columns that it reads, and how it is made."""


WordsOf = Callable[[Stored], DataFrame]
"""Finds a stored vocabulary, see `pipeline.features.vocabularies`."""


def features(
    frame: DataFrame,
    spec: FeatureSpec,
    *,
    with_missing: bool = True,
    words_of: WordsOf | None = None,
    beside: Sequence[str] = (),
) -> DataFrame:
    """The rows of the table `features`.

    Args:
        frame: What `prepared` returned.
        spec: The fitted spec.
        with_missing: Whether to tell what was missing; tables of older versions do not.
        words_of: Finds vocabularies that are stored.
        beside: Columns of the frame to pass on.

    Returns:
        Keys, the label's columns, the weight if there is one, `spec.columns`, `bigint` columns
        (`spec.missing_columns`), split and period.

    Raises:
        SpecError: The frame lacks a column that the spec needs, or has another type of it.
    """
    require_columns(frame, [(kinds()[part.kind], part.reads, part) for part in spec.parts])
    frame = _with_hidden(frame, spec, words_of)
    made = {
        column.name: expression.cast(column.spark).alias(column.name)
        for part in spec.parts
        for column, expression in zip(part.columns(), part.spark(), strict=True)
    }
    rows = frame.select(
        *spec.keys,
        *spec.label_columns,
        *spec.weight_columns,
        *(made[name] for name in spec.feature_columns),
        *(_missing_bits(spec) if with_missing else ()),
        SPLIT,
        spec.period_column,
        *beside,
    )
    if not any(part.vocabulary for part in spec.parts):
        return rows
    # A join leaves rows of all periods in each task, which would write a file for each of them.
    return rows.hint("rebalance", SPLIT, spec.period_column)


def row_hash(keys: Sequence[str]) -> Column:
    """A hash of a row's keys, `bigint`: the same in the fit and in every transform."""
    return F.xxhash64(*keys)


def _with_hidden(frame: DataFrame, spec: FeatureSpec, words_of: WordsOf | None) -> DataFrame:
    """Adds what parts read beside the columns of `clean`: folds, and what joins find.

    Raises:
        SpecError: A vocabulary is stored, and nothing finds it.
    """
    if any(part.needs_folds for part in spec.parts):
        in_train = F.col(SPLIT) == TRAIN
        frame = frame.withColumns({ROW_HASH: row_hash(spec.keys), IN_TRAIN: in_train})
    for part in spec.parts:
        if part.vocabulary is None:
            continue
        if words_of is None:
            raise SpecError(
                f"features.{part.kind}.{part.column}",
                f"its words are in the table {part.vocabulary.table}",
                "Give `features` what finds them: pipeline.features.vocabularies.words_of.",
            )
        frame = part.joined(frame, words_of(part.vocabulary))
    return frame


def require_columns(frame: DataFrame, wanted: Iterable[Wanted]) -> None:
    """Checks that features can be made of these columns.

    Raises:
        SpecError: A column is not there or of a type that its feature cannot be made of, or a
            setting is refused by its kind.
    """
    listed = list(wanted)
    types = {field.name: field.dataType for field in frame.schema}
    for _, columns, _ in listed:
        for column in columns:
            if column not in types:
                raise SpecError(
                    f"features, column {column}",
                    f"is missing; there are {', '.join(types)}",
                    "Run clean with the description that this spec was fitted under, or fit a new "
                    "one.",
                )
    for kind, columns, _ in listed:
        for column in columns:
            if not kind.need.fits(types[column]):
                raise SpecError(
                    f"features, column {column}",
                    f"is {types[column].simpleString()}, and {kind.need.problem}",
                    kind.need.remedy,
                )
    for kind, columns, how in listed:
        if kind.check is not None:
            kind.check(f"features.{kind.name}.{columns[0]}", how, frame.sparkSession)


def _missing_bits(spec: FeatureSpec) -> list[Column]:
    """The columns `spec.missing_columns`."""
    rules = {
        column: part.traceless
        for part in reversed(spec.parts)
        if part.traceless
        for column in part.reads
    }
    bits = [
        (number_of(name) if rules[name] == "no number" else F.col(name)).isNull().cast("bigint")
        for name in spec.imputed_columns
    ]
    columns = [bits[at : at + BITS_PER_COLUMN] for at in range(0, len(bits), BITS_PER_COLUMN)]
    # Shifted bits have no carry: the sum of at most 63 of them is their union, and never negative.
    unions = [
        reduce(add, (F.shiftleft(bit, place) for place, bit in enumerate(column)))
        for column in columns
    ]
    named = zip(unions, spec.missing_columns, strict=True)
    return [union.alias(name) for union, name in named]
