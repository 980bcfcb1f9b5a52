"""What a feature kind is: the base classes of its settings and of its fitted part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from pyspark.sql import Column, DataFrame
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DataType,
    NumericType,
    StringType,
)

from pipeline.errors import SpecError
from pipeline.features.kinds.columns import FIRST_ID, FeatureColumn
from pipeline.features.kinds.part import Part
from pipeline.settings import Settings

ROW_HASH, IN_TRAIN, TARGET = "_row_hash", "_in_train", "_target"
"""Columns beside those of `clean`, for kinds that learn from the label: a hash of the keys, which
puts a row in a fold; whether a row is in the train split; the label as a double, in the fit only.
"""


class Words(NamedTuple):
    """A request to count the distinct values of a column over the train split."""

    value: Column
    """String, or with `is_list` an array of strings; null is not counted."""
    minimum_count: int
    """Values that occur less often are not reported."""
    is_list: bool = False
    """Whether each element of an array is counted."""
    largest: int | None = None
    """Only so many are reported: the most frequent, of equally frequent ones the first by word."""
    folds: int = 0
    """Folds of `ROW_HASH` by which rows and labels are added up; 0 for none."""


class Tally(NamedTuple):
    """Columns that hold what was counted of a word, for `FeatureSettings.payload`."""

    rows: Column
    """Occurrences, `bigint`."""
    rows_by_fold: Column
    """`array<bigint>` [folds]."""
    sums_by_fold: Column
    """Sums of the label, `array<double>` [folds]."""


class Counted(NamedTuple):
    """A value that occurs often enough, and in how many train rows."""

    word: str
    rows: int
    values: tuple[float, ...] = ()
    """Result of `FeatureSettings.payload`."""


class Stored(BaseModel):
    """A vocabulary that is too large for a spec: where it is in the lake, and what it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    version: int
    """Of the table; later commits are of other fits."""
    fit: str
    feature: str
    """Partition columns of the table."""
    words: int
    """How many there are."""
    digest: str
    """Over all words, ids and counts, see `pipeline.features.vocabularies`."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the fitting pass measured for one feature."""

    values: Mapping[str, Any]
    """Results of `FeatureSettings.measures`, under the same names."""
    words: tuple[Counted, ...]
    """Result of `FeatureSettings.words`, in the order of the words; empty where they are stored."""
    stored: Stored | None = None
    """Where the words are, if there are too many for a spec."""
    rows: int
    """Of the train split."""
    setting: str
    """Such as `features.numeric.amount`, for messages."""


class LearnedTask(Protocol):
    """What a kind may ask of the pipeline's task, see `pipeline.training.tasks`."""

    name: ClassVar[str]
    label_is_number: ClassVar[bool]


class FeatureSettings(Settings):
    """The YAML section of one feature: `features.<kind>.<name>`."""

    @property
    def form(self) -> type[FeatureColumn]:
        """Form of the columns that it makes, which decides the networks that can read it."""
        raise NotImplementedError

    @property
    def forms(self) -> frozenset[type[FeatureColumn]]:
        """All forms of the columns that it makes, where they are several."""
        return frozenset({self.form})

    def reads(self, name: str) -> tuple[str, ...]:
        """Columns of `clean`, or derived ones, that the feature is made of."""
        return (name,)

    def measures(self, name: str) -> Mapping[str, Column]:
        """Aggregates over the train split that the fit needs, by a name of the kind's own."""
        del name
        return {}

    def words(self, name: str) -> Words | None:
        """Distinct values that the fit needs, if any."""
        del name
        return None

    def payload(self, measured: Measured, tally: Tally) -> Column | None:
        """What is to be stored with each word, `array<double>`; None for nothing.

        Args:
            measured: Results of `measures`; its words are still to come.
            tally: What was counted of the word.
        """
        del measured, tally
        return None

    def refusal(self, task: LearnedTask) -> str | None:
        """Says why the feature cannot be made for a task; None if it can."""
        del task
        return None

    def fitted(self, name: str, measured: Measured) -> Fitted:
        """Returns the fitted part.

        Args:
            name: The feature's key in the YAML: a column, or a name of the user's.
            measured: What was asked for.

        Raises:
            SpecError: The train rows do not allow a fit.
        """
        raise NotImplementedError


class Fitted(Part):
    """The fitted part of a spec for one feature; it holds numbers and words, never code."""

    kind: str
    column: str
    """The feature's key in the YAML: a column, or a name of the user's."""

    traceless: ClassVar[Literal["null", "no number"] | None] = None
    """Which values become an ordinary value in the features, so that drift counts them apart."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of `clean`, or derived ones, that the feature is made of."""
        return (self.column,)

    @property
    def needs_folds(self) -> bool:
        """Whether `spark` reads the columns `ROW_HASH` and `IN_TRAIN`."""
        return False

    @property
    def vocabulary(self) -> Stored | None:
        """The vocabulary that has to be read from the lake; None where it is in the spec."""
        return None

    def joined(self, frame: DataFrame, words: DataFrame) -> DataFrame:
        """Adds the hidden columns that `spark` reads, found in the stored vocabulary.

        Args:
            frame: The rows; each stays exactly once.
            words: The vocabulary, see `pipeline.features.vocabularies`; each word once.
        """
        del words
        return frame

    def with_words(self, words: pa.Table) -> Self:
        """The same part with its stored vocabulary in memory, for `arrow`."""
        del words
        return self

    @property
    def ulps(self) -> int:
        """How far Spark's and Arrow's float32 results may lie apart, in units in the last place."""
        return 0

    def columns(self) -> tuple[FeatureColumn, ...]:
        """The columns of the table `features`."""
        raise NotImplementedError

    def spark(self) -> tuple[Column, ...]:
        """Spark expressions of `columns()`, never null, each castable to its column's type."""
        raise NotImplementedError

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """Values of `columns()` without Spark.

        Args:
            rows: The columns that `reads` names, each [rows].

        Returns:
            Arrays [rows] of the columns' types, equal to Spark's within `ulps`.

        Raises:
            SpecError: The values are of a type for which only Spark's conversion is known.
        """
        raise NotImplementedError

    def is_bad(self) -> Column | None:
        """Whether a row's value cannot be a feature and must end the run; None if all can."""
        return None

    def bad_rows(self, bad: int, rows: int) -> SpecError:
        """The error for `bad` of `rows` rows for which `is_bad` holds."""
        raise NotImplementedError

    def fault(self) -> Column | None:
        """Words for what is wrong with a bad row's value; None where `bad_rows` says enough."""
        return None

    def word(self, id_: int) -> str:
        """What an id from `FIRST_ID` on stands for, for the report."""
        return f"id {id_ - FIRST_ID}"

    def word_in(self, column: FeatureColumn, id_: int) -> str:
        """The same for one of several columns of ids."""
        del column
        return self.word(id_)


def with_example(error: SpecError, fault: str | None) -> SpecError:
    """The error of `Fitted.bad_rows` with what is wrong with one of the rows."""
    if fault is None:
        return error
    return SpecError(error.where, f"{error.problem}; one {fault}", error.remedy)


class Need(NamedTuple):
    """What a kind asks of its column's type."""

    fits: Callable[[DataType], bool]
    problem: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of features."""

    name: str
    """Its section under `features:` in the YAML, and `kind` in a spec."""
    settings: type[FeatureSettings]
    fitted: type[Fitted]
    need: Need
    others: Mapping[str, type[Fitted]] = field(default_factory=dict)
    """Fitted parts of another class than `fitted`, by their field `encoding`."""
    in_version_1: bool = False
    """Whether version 0.1 had it: its section is part of fingerprints even while it is empty."""
    check: Callable[[str, FeatureSettings | Fitted, Any], None] | None = None
    """A further check that needs a Spark session: of the setting, the part, the session."""

    def parsed(self, part: Mapping[str, Any]) -> Fitted:
        """A fitted part as a spec's JSON holds it.

        Raises:
            ValidationError: It is none of this kind.
        """
        return self.others.get(str(part.get("encoding")), self.fitted).model_validate(part)


def is_number(kind: DataType) -> bool:
    """Whether values of a Spark type are numbers to a feature."""
    return isinstance(kind, NumericType | BooleanType)


ANYTHING = Need(lambda _: True, "", "")
A_NUMBER = Need(
    is_number, "a feature is to be a number", "Make it a category, or derive a number from it."
)
BYTES = Need(
    lambda kind: isinstance(kind, BinaryType),
    "an image is to be binary",
    "Give it the type binary under source.columns, or derive the bytes by unbase64 or unhex.",
)
A_TEXT = Need(
    lambda kind: isinstance(kind, StringType),
    "tokens are made of a string",
    "Derive the text from it; of bytes, by decode(column, 'UTF-8').",
)
NUMBERS = Need(
    lambda kind: isinstance(kind, ArrayType) and is_number(kind.elementType),
    "a series is to be an array of numbers",
    "Derive one from it, such as transform(split(column, ','), x -> try_cast(x AS double)).",
)


def require_values(measured: Measured, count: str) -> None:
    """Refuses a feature without a value to fit on.

    Args:
        measured: What the fitting pass measured.
        count: Name of the measure that counts the values.

    Raises:
        SpecError: The column has no value in the train split.
    """
    if not measured.values[count]:
        raise SpecError(
            measured.setting,
            f"has no value among the {measured.rows} train rows",
            "Leave this feature out, or correct the join or expression it comes from.",
        )
