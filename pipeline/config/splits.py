"""Splits: which rows a network learns from, is chosen on, and is tested on.

Without `by` they are three conditions. With it, a method makes them: `time`, `hash`, `group`,
`stratified` or `random`. Their expressions stand in `pipeline/features/splits.py`, and when to
choose which in docs/splits.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.config.asof import Tolerance
from pipeline.config.borders import Borders, Moment, borders_of, is_before
from pipeline.config.table_rules import ColumnOf
from pipeline.config.types import is_nested
from pipeline.settings import Fraction, Settings, require_known

DIGITS = 13
"""Hexadecimal digits of a hash that are compared: 52 bits, which a float holds exactly."""


class Splits(Settings):
    """Spark SQL conditions, tried in this order; rows that meet none are in the split `rest`."""

    by: ClassVar = "conditions"

    train: str
    validation: str
    test: str


class TimeSplits(Settings):
    """Train is what was before a moment; validation and test follow it."""

    by: Literal["time"]
    column: str
    """A date, a timestamp, a number, or a text that sorts by time, such as `2001-05`. Rows where it
    is null are in the split `rest`."""
    validation: Moment
    """The first moment of the split validation."""
    test: Moment
    """The first moment of the split test."""
    end: Moment | None = None
    """The first moment that is in no split any more."""
    gap: Tolerance | None = None
    """Rows of so long before `validation` and before `test` are in the split `rest`: `7 days`, or a
    number where the column is one."""

    def borders(self, kind: str) -> Borders:
        """The borders as values of the column's type.

        Raises:
            ValueError: One is no value of the type, or the gap leaves no time for a split.
        """
        return borders_of(self.validation, self.test, self.end, self.gap, kind)

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        named = [("validation", self.validation), ("test", self.test), ("end", self.end)]
        moments = [(name, moment) for name, moment in named if moment is not None]
        for (first, early), (second, late) in itertools.pairwise(moments):
            if not is_before(early, late):
                raise ValueError(f"{second} {late!r} is not after {first} {early!r}")
        return self


class _Shares(Settings):
    """What all methods share that draw a number for a row by a hash."""

    validation: Fraction
    """Share of the rows, or of the groups."""
    test: Fraction
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Another seed is another draw. It is not the pipeline's: that of the training may change
    without a row changing its split."""

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation} and test {self.test} leave no rows to train"
            )
        return self

    @property
    def thresholds(self) -> tuple[str, str]:
        """A hash below the first is of the split test; else below the second, of validation.

        Test comes first: another share of validation then leaves the split test as it is.
        """
        return threshold(self.test), threshold(self.test + self.validation)


class HashSplits(_Shares):
    """By a hash of columns: rows with equal values are in one split; a null is a value, too."""

    by: Literal["hash"]
    columns: tuple[str, ...] = Field(min_length=1)


class GroupSplits(_Shares):
    """By a hash of an entity, such as a customer, so that none is in two splits.

    A row without an entity is a group of its own, by the hash of its keys.
    """

    by: Literal["group"]
    column: str


class _Strata(_Shares):
    expression: str | None = None
    """Spark SQL of the stratum; by default it is the label."""


class StratifiedSplits(_Strata):
    """By a hash of the keys, with the shares kept within each stratum of the rows fitted on."""

    by: Literal["stratified"]


class FittedStrata(_Strata):
    """The same in a fitted spec: each stratum has thresholds of its own."""

    by: Literal["stratified, fitted"] = "stratified, fitted"
    borders: dict[str, tuple[str, str]]
    """Stratum to thresholds; a stratum that came later has those of the shares."""


class RandomSplits(_Shares):
    """By a hash of the keys."""

    by: Literal["random"]


METHODS: dict[str, type[Settings]] = {
    "conditions": Splits,
    "time": TimeSplits,
    "hash": HashSplits,
    "group": GroupSplits,
    "stratified": StratifiedSplits,
    "random": RandomSplits,
}


def _method_of(given: Any) -> str | None:
    if isinstance(given, dict):
        return str(given.get("by", "conditions"))
    return str(given.by) if isinstance(given, Settings) and hasattr(given, "by") else None


_METHOD = Discriminator(
    _method_of,
    custom_error_type="no_method",
    custom_error_message="write three conditions (train, validation, test), or `by:` and one of "
    + ", ".join(name for name in METHODS if name != "conditions"),
)

AnySplits = Annotated[
    Annotated[Splits, Tag("conditions")]
    | Annotated[TimeSplits, Tag("time")]
    | Annotated[HashSplits, Tag("hash")]
    | Annotated[GroupSplits, Tag("group")]
    | Annotated[StratifiedSplits, Tag("stratified")]
    | Annotated[RandomSplits, Tag("random")],
    _METHOD,
]
"""What a description may say."""

SpecSplits = Annotated[
    Annotated[Splits, Tag("conditions")]
    | Annotated[TimeSplits, Tag("time")]
    | Annotated[HashSplits, Tag("hash")]
    | Annotated[GroupSplits, Tag("group")]
    | Annotated[StratifiedSplits, Tag("stratified")]
    | Annotated[FittedStrata, Tag("stratified, fitted")]
    | Annotated[RandomSplits, Tag("random")],
    _METHOD,
]
"""What a fitted spec may say."""


def deciding_columns(splits: SpecSplits) -> tuple[str, ...]:
    """Columns that a method is told to look at; those in conditions only Spark can tell."""
    if isinstance(splits, HashSplits):
        return splits.columns
    return (splits.column,) if isinstance(splits, TimeSplits | GroupSplits) else ()


def entity_of(splits: SpecSplits) -> str | None:
    """The column of which no value is in two splits, by construction."""
    return splits.column if isinstance(splits, GroupSplits) else None


def threshold(share: float) -> str:
    """The hexadecimal digits that a share of all hashes is below.

    With d = the first 13 digits of a hash / 16^13, d < share if and only if the hash, as text, is
    less than these digits.
    """
    # A float times a power of two is exact. Shares are below 1, and so must be their digits.
    scaled = share * 16**DIGITS
    above = int(scaled) + (scaled > int(scaled))
    return f"{min(above, 16**DIGITS - 1):0{DIGITS}x}"


def require_splits_fit(
    splits: AnySplits,
    entities: Collection[str],
    *,
    columns: Collection[str],
    derived: Collection[str],
    leakage: Collection[str],
    column_of: ColumnOf,
) -> None:
    """Refuses columns that decide about a split, or are watched, and cannot.

    They are columns that a condition sees: those of `clean` less the leakage, and derived ones.

    Args:
        splits: The splits.
        entities: Columns that are watched.
        columns: Columns of `clean`.
        derived: Columns that the features add.
        leakage: Columns, or patterns of columns, known only after the moment of prediction.
        column_of: The contract of a column of `clean`.

    Raises:
        ValueError: It names the setting and the column.
    """
    deciding = deciding_columns(splits)
    require_known("features.splits", deciding, {*columns, *derived})
    require_known("features.entities", entities, {*columns, *derived})
    for setting, names in (("splits", deciding), ("entities", entities)):
        for name in names:
            if any(fnmatchcase(name, each) for each in leakage):
                raise ValueError(
                    f"features.{setting}: {name!r} is listed under leakage, and no split can see it"
                )
            column = None if name in derived else column_of(name)
            if column is not None and is_nested(column.kind):
                raise ValueError(f"features.{setting}: {name!r} is {column.type}, not one value")
    if isinstance(splits, TimeSplits) and splits.column not in derived:
        column = column_of(splits.column)
        if column is not None:
            try:
                splits.borders(str(column.kind))
            except ValueError as error:
                raise ValueError(f"features.splits: column {splits.column!r}: {error}") from error
