"""The split of a row: an expression over the row alone, so that no other row can move it.

A method is a function in the table `_METHODS`. All but conditions and time compare a hash:

    md5(utf8(concat_ws('|', seed, value of column 1, value of column 2, ...)))

in lower-case hexadecimal. A value is written as Spark casts it to a string (1, 1.5, true,
2001-05-31, 2001-05-31 10:00:00 in UTC), binary as upper-case hexadecimal, null as nothing. An `int`
and a `bigint` of one value are one text. With d = the first 13 digits / 16^13, a row is in `test`
where d < test, in `validation` where d < test + validation, else in `train`. In Python:

    int(hashlib.md5(f"{seed}|{customer_id}".encode()).hexdigest()[:13], 16) / 16**13

MD5 is chosen since every engine has it and nobody needs it to be secret. On 3,000,000 rows and two
cores it took 0.37 s more than writing the texts; Spark's xxhash64, which hardly any other engine
has, took 0.01 s, and CRC-32 0.05 s. The seeds of a CRC are no draws of their own: texts of one
length differ by a constant that the seed decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, DataType, DoubleType, FloatType

from pipeline.config import (
    FittedStrata,
    GroupSplits,
    HashSplits,
    RandomSplits,
    SpecSplits,
    Splits,
    StratifiedSplits,
    TimeSplits,
    deciding_columns,
)
from pipeline.errors import SpecError
from pipeline.expressions import checked
from pipeline.features.label import condition

TRAIN, VALIDATION, TEST, UNLABELLED, REST = "train", "validation", "test", "unlabelled", "rest"
_SEPARATOR = "|"


def split_of(
    frame: DataFrame, splits: SpecSplits, keys: Sequence[str], labels: Sequence[Column]
) -> Column:
    """The split of each labelled row: train, validation, test or rest.

    Args:
        frame: What splits are made of: `clean` less the leakage, with the derived columns.
        splits: A method and its settings.
        keys: Columns that name a row.
        labels: The label's columns; strata are made of them where no expression is given.

    Raises:
        SpecError: A column is missing or of a type that does not fit, or an expression is wrong.
    """
    missing = [name for name in deciding_columns(splits) if name not in frame.columns]
    if missing:
        raise SpecError(
            "features.splits",
            f"there is no column {missing[0]!r} that is known at prediction",
            f"Name one of {', '.join(frame.columns)}.",
        )
    return _METHODS[type(splits)](frame, splits, keys, labels)


def no_train_rows(splits: SpecSplits) -> SpecError:
    """The error for splits that leave no labelled row to learn from."""
    if isinstance(splits, Splits):
        where, problem = ".train", f"no labelled row of clean meets {splits.train!r}"
    else:
        where, problem = "", f"by: {splits.by} puts no labelled row of clean into train"
    return SpecError(
        f"features.splits{where}", problem, "Widen the train split, or deliver more raw files."
    )


def digest(frame: DataFrame, columns: Sequence[str], seed: int) -> Column:
    """The hash of a row's values in some columns: 32 hexadecimal digits, never null."""
    return F.md5(F.concat_ws(_SEPARATOR, F.lit(str(seed)), *_texts(frame, columns)))


def stratum_of(frame: DataFrame, expression: str | None, labels: Sequence[Column]) -> Column:
    """The stratum of a row as text; null is the empty text.

    Raises:
        SpecError: The expression is wrong.
    """
    if expression is not None:
        labels = [checked(frame, expression, "features.splits.expression", SpecError).column]
    texts = (F.coalesce(label.cast("string"), F.lit("")) for label in labels)
    return F.concat_ws(_SEPARATOR, *texts)


def _texts(frame: DataFrame, columns: Sequence[str]) -> list[Column]:
    return [
        F.coalesce(_text(F.col(name), frame.schema[name].dataType), F.lit("")) for name in columns
    ]


def _text(value: Column, kind: DataType) -> Column:
    if isinstance(kind, BinaryType):
        return F.hex(value)
    if isinstance(kind, FloatType | DoubleType):
        # 0.0 and -0.0 are equal, and must not be two texts.
        value = F.when(value == 0, F.lit(0.0).cast(kind)).otherwise(value)
    return value.cast("string")


def _by_conditions(frame: DataFrame, splits: Splits, _: Any, __: Any) -> Column:
    split = F.when(F.lit(False), REST)
    for name in (TRAIN, VALIDATION, TEST):
        holds = condition(frame, getattr(splits, name), f"features.splits.{name}")
        split = split.when(holds, name)
    return split.otherwise(REST)


def _by_time(frame: DataFrame, splits: TimeSplits, _: Any, __: Any) -> Column:
    kind = frame.schema[splits.column].dataType
    try:
        borders = splits.borders(kind.simpleString())
    except ValueError as error:
        raise SpecError(
            "features.splits", f"column {splits.column!r}: {error}", "Correct the borders."
        ) from error
    when = F.col(splits.column)
    if isinstance(kind, FloatType | DoubleType):
        when = F.when(~F.isnan(when), when)  # Spark sorts NaN behind all numbers
    split = (
        F.when(when < _literal(borders.train_end, kind), TRAIN)
        .when(when < _literal(borders.validation, kind), REST)
        .when(when < _literal(borders.validation_end, kind), VALIDATION)
        .when(when < _literal(borders.test, kind), REST)
    )
    if borders.end is not None:
        split = split.when(when >= _literal(borders.end, kind), REST)
    # A null is neither before nor after: it comes through to the end.
    return split.when(when.isNotNull(), TEST).otherwise(REST)


def _literal(value: date | datetime | Decimal | str, kind: DataType) -> Column:
    """A border as a literal; as text, since PySpark reads a time as one of the driver's zone."""
    if isinstance(value, Decimal):
        return F.lit(float(value) if isinstance(kind, FloatType | DoubleType) else value)
    if isinstance(value, str):
        return F.lit(value)
    zone = "Z" if kind.simpleString() == "timestamp" else ""
    return F.lit(f"{value.isoformat()}{zone}").cast(kind)


def _by_hash(frame: DataFrame, splits: HashSplits, _: Any, __: Any) -> Column:
    return _drawn(digest(frame, splits.columns, splits.seed), splits.thresholds)


def _by_group(frame: DataFrame, splits: GroupSplits, keys: Sequence[str], _: Any) -> Column:
    # All rows without a group on one side would be a group that nobody meant.
    own = F.col(splits.column).isNull()
    drawn = F.when(own, digest(frame, keys, splits.seed)).otherwise(
        digest(frame, [splits.column], splits.seed)
    )
    return _drawn(drawn, splits.thresholds)


def _by_keys(
    frame: DataFrame, splits: RandomSplits | StratifiedSplits, keys: Sequence[str], _: Any
) -> Column:
    return _drawn(digest(frame, keys, splits.seed), splits.thresholds)


def _by_strata(
    frame: DataFrame, splits: FittedStrata, keys: Sequence[str], labels: Sequence[Column]
) -> Column:
    stratum = stratum_of(frame, splits.expression, labels)
    fitted: list[Column] = []
    for place, nominal in enumerate(splits.thresholds):
        pairs = (F.lit(text) for name, own in splits.borders.items() for text in (name, own[place]))
        own = F.try_element_at(F.create_map(*pairs), stratum) if splits.borders else F.lit(None)
        fitted.append(F.coalesce(own, F.lit(nominal)))
    return _drawn(digest(frame, keys, splits.seed), fitted)


def _drawn(drawn: Column, thresholds: Sequence[str | Column]) -> Column:
    """Compares hashes as texts: hexadecimal digits sort like their numbers."""
    test, validation = thresholds
    return F.when(drawn < test, TEST).when(drawn < validation, VALIDATION).otherwise(TRAIN)


_METHODS: dict[type, Callable[..., Column]] = {
    Splits: _by_conditions,
    TimeSplits: _by_time,
    HashSplits: _by_hash,
    GroupSplits: _by_group,
    # Until its strata are fitted, it is a draw like any other.
    StratifiedSplits: _by_keys,
    FittedStrata: _by_strata,
    RandomSplits: _by_keys,
}
