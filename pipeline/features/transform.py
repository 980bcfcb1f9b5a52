"""The transform: a fitted spec as column expressions, the same for training and for scoring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.errors import SpecError
from pipeline.features.kinds import FeatureSettings, Fitted, Kind, kinds
from pipeline.features.kinds.values import number_of
from pipeline.features.prepared import SPLIT
from pipeline.features.spec import BITS_PER_COLUMN, FeatureSpec

Wanted = tuple[Kind, tuple[str, ...], FeatureSettings | Fitted]
"""A feature: its kind, the columns that it reads, and how it is made."""


def features(
    frame: DataFrame, spec: FeatureSpec, *, with_missing: bool = True, beside: Sequence[str] = ()
) -> DataFrame:
    """The rows of the table `features`.

    Args:
        frame: What `prepared` returned.
        spec: The fitted spec.
        with_missing: Whether to tell what was missing; tables of older versions do not.
        beside: Columns of the frame to pass on.

    Returns:
        Keys, the label's columns, the weight if there is one, `spec.columns`, `bigint` columns
        (`spec.missing_columns`), split and period.

    Raises:
        SpecError: The frame lacks a column that the spec needs, or has another type of it.
    """
    require_columns(frame, [(kinds()[part.kind], part.reads, part) for part in spec.parts])
    made = {
        column.name: expression.cast(column.spark).alias(column.name)
        for part in spec.parts
        for column, expression in zip(part.columns(), part.spark(), strict=True)
    }
    return frame.select(
        *spec.keys,
        *spec.label_columns,
        *spec.weight_columns,
        *(made[name] for name in spec.feature_columns),
        *(_missing_bits(spec) if with_missing else ()),
        SPLIT,
        spec.period_column,
        *beside,
    )


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
