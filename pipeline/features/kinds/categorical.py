"""The kind `categorical`: a category as an id, by its frequency, or by the label's mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import (
    FIRST_ID,
    MISSING_ID,
    UNKNOWN_ID,
    FeatureColumn,
    Id,
    Number,
)
from pipeline.features.kinds.hashing import Buckets, hashed, hashed_texts
from pipeline.features.kinds.kind import (
    ANYTHING,
    IN_TRAIN,
    ROW_HASH,
    TARGET,
    FeatureSettings,
    Fitted,
    Kind,
    LearnedTask,
    Measured,
    Tally,
    Words,
)
from pipeline.features.kinds.scales import rounded
from pipeline.features.kinds.values import floats, rows_of, texts_in
from pipeline.features.kinds.vocabulary import VALUES, FittedWords
from pipeline.settings import Positive

MISSING, MEAN, DEVIATION, FOLD_ROWS, FOLD_SUM = "missing", "mean", "deviation", "rows", "sum"
PLACES = 10_000_000
"""Encodings by the label are rounded to 7 decimals: the last digits depend on the partitions."""


class Categorical(FeatureSettings):
    """A category, by one of four encodings.

    `vocabulary`: an id for each word. `hash`: an id by a hash, for any number of words.
    `frequency`: the share of the train rows that have it. `target`: the mean of the label among
    them, smoothed, and out of fold for the train rows.
    """

    added: ClassVar[frozenset[str]] = frozenset({"encoding", "buckets", "smoothing", "folds"})

    encoding: Literal["vocabulary", "hash", "frequency", "target"] = "vocabulary"
    minimum_count: Positive = 20
    """Categories seen less often among the training rows count as never seen; not for `hash`."""
    buckets: Buckets = 1_000
    """For `hash`: ids that words are hashed to, 0 for missing ones included."""
    smoothing: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    """For `target`: rows of the overall mean that are added to each category's own."""
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """For `target`: parts of the train split, by a hash of `features.keys`."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Number if self.encoding in ("frequency", "target") else Id

    def words(self, name: str) -> Words | None:
        """The categories, as Spark writes them."""
        if self.encoding == "hash":
            return None
        folds = self.folds if self.encoding == "target" else 0
        return Words(F.col(name).cast("string"), self.minimum_count, folds=folds)

    def measures(self, name: str) -> Mapping[str, Column]:
        """For a frequency the missing values, for a target the label's sums by fold."""
        if self.encoding == "frequency":
            return {MISSING: F.count_if(F.col(name).isNull())}
        if self.encoding == "target":
            return _label_by_fold(self.folds)
        return {}

    def payload(self, measured: Measured, tally: Tally) -> Column | None:
        """The share of a word, or its encodings."""
        if self.encoding == "frequency":
            return F.array(tally.rows / F.lit(float(measured.rows)))
        if self.encoding == "target":
            return _Smoothing.of(self, measured).encodings(tally)
        return None

    def refusal(self, task: LearnedTask) -> str | None:
        """A target is one number for a row."""
        if self.encoding == "target" and not task.label_is_number:
            return (
                f"encoding target needs a label that is one number, and the task is {task.name}; "
                "choose vocabulary, hash or frequency"
            )
        return None

    def fitted(self, name: str, measured: Measured) -> Fitted:
        """Returns the part of the encoding."""
        if self.encoding == "hash":
            return FittedHash(column=name, buckets=self.buckets)
        words = tuple(each.word for each in measured.words)
        values = tuple(each.values for each in measured.words)
        if self.encoding == "frequency":
            return FittedFrequency(
                column=name,
                words=words,
                stored=measured.stored,
                shares=tuple(share for (share,) in values),
                missing=measured.values[MISSING] / measured.rows,
            )
        if self.encoding == "target":
            smoothing = _Smoothing.of(self, measured)
            return FittedTarget(
                column=name,
                words=words,
                stored=measured.stored,
                encodings=values,
                priors=tuple(smoothing.scaled_number(prior) for prior in smoothing.priors),
                mean=smoothing.mean,
                deviation=smoothing.deviation,
            )
        return FittedCategory(column=name, words=words, stored=measured.stored)

    @model_validator(mode="after")
    def _settings_of_the_encoding(self) -> Self:
        for setting, encodings in _ONLY_FOR.items():
            if setting in self.model_fields_set and self.encoding not in encodings:
                raise ValueError(
                    f"{setting} says nothing to the encoding {self.encoding}, only to "
                    f"{' and '.join(encodings)}"
                )
        return self


_ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    "minimum_count": ("vocabulary", "frequency", "target"),
    "buckets": ("hash",),
    "smoothing": ("target",),
    "folds": ("target",),
}


class FittedText(FittedWords):
    """What the encodings with a vocabulary share: the column's text is the word."""

    def text(self) -> Column:
        """The value as Spark writes it."""
        return F.col(self.column).cast("string")

    def texts(self, rows: Mapping[str, pa.Array]) -> pa.Array:
        """The same without Spark, [rows]."""
        return texts_in(rows_of(rows, self.column), self.column)


class FittedCategory(FittedText):
    """The word's place in the vocabulary plus 2; 0 is missing, 1 out of vocabulary.

    One column, `int`.
    """

    kind: Literal["categorical"] = "categorical"

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`cat_<column>`."""
        return (Id(name=f"cat_{self.column}", source=self.column, size=FIRST_ID + self.size),)

    def spark(self) -> tuple[Column, ...]:
        """The id of each word."""
        return (id_or_reserved(self.text(), self.found()),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The id of each word."""
        texts = self.texts(rows)
        return (ids_of(texts, self.places(texts)),)


class FittedHash(Fitted):
    """1 + CRC-32 % (buckets - 1) of the text, 0 where it is missing; one column, `int`."""

    kind: Literal["categorical"] = "categorical"
    encoding: Literal["hash"] = "hash"
    buckets: Buckets

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`cat_<column>`."""
        name = f"cat_{self.column}"
        return (Id(name=name, source=self.column, size=self.buckets, unknown=None),)

    def spark(self) -> tuple[Column, ...]:
        """The id of each text."""
        text = F.col(self.column).cast("string")
        return (F.coalesce(hashed(text, self.buckets), F.lit(MISSING_ID)),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The id of each text."""
        return (hashed_texts(texts_in(rows_of(rows, self.column), self.column), self.buckets),)


class FittedFrequency(FittedText):
    """The share of the train rows that have the word, in [0, 1]; one column, `float`.

    Missing values have a share of their own; a word that is not in the vocabulary has 0.

    Source: category_encoders, CountEncoder with `normalize=True`.
    """

    kind: Literal["categorical"] = "categorical"
    encoding: Literal["frequency"] = "frequency"
    shares: tuple[float, ...]
    """Of each word; empty where they are stored."""
    missing: float

    entry: ClassVar[str] = VALUES
    traceless: ClassVar[Literal["null", "no number"] | None] = "null"

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`freq_<column>`."""
        return (Number(name=f"freq_{self.column}", source=self.column),)

    def entries(self) -> Mapping[str, Any]:
        """Word -> share, in a list."""
        return {word: [share] for word, share in zip(self.words, self.shares, strict=True)}

    def spark(self) -> tuple[Column, ...]:
        """The share of each word."""
        share = F.coalesce(F.get(self.found("array<double>"), F.lit(0)), F.lit(0.0))
        return (F.when(self.text().isNull(), F.lit(self.missing)).otherwise(share),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The share of each word."""
        texts = self.texts(rows)
        shares = pa.array(self.shares, pa.float64())
        if self.stored:
            shares = pc.list_element(self.loaded_values(), 0)
        share = pc.take(shares, self.places(texts)).fill_null(0.0)
        share = pc.if_else(texts.is_null(), pa.scalar(self.missing), share)
        return (floats(share.to_numpy(zero_copy_only=False)),)


class FittedTarget(FittedText):
    """The smoothed mean of the label among the train rows that have the word; one column, `float`.

    e = (sum of the label + smoothing * prior) / (rows + smoothing), with the mean of the label as
    the prior, then (e - mean) / deviation of the label. Missing and unknown words get the prior. A
    row of the train split gets the e that is computed without its fold, prior included, so that its
    own label never enters; every other row, and `arrow`, the e of the whole split.

    Source: Micci-Barreca, A Preprocessing Scheme for High-Cardinality Categorical Attributes
    (2001); scikit-learn, TargetEncoder with `smooth=m`, whose `fit_transform` has the folds.
    """

    kind: Literal["categorical"] = "categorical"
    encoding: Literal["target"] = "target"
    encodings: tuple[tuple[float, ...], ...]
    """Of each word [folds + 1]: without each fold, then of the whole split; empty if stored."""
    priors: tuple[float, ...]
    """The same where no word is known."""
    mean: float
    """Of the label in the train split."""
    deviation: float

    entry: ClassVar[str] = VALUES
    traceless: ClassVar[Literal["null", "no number"] | None] = "null"

    @property
    def needs_folds(self) -> bool:
        """For the rows of the train split."""
        return True

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`target_<column>`."""
        return (Number(name=f"target_{self.column}", source=self.column),)

    def entries(self) -> Mapping[str, Any]:
        """Word -> encodings."""
        return dict(zip(self.words, self.encodings, strict=True))

    def spark(self) -> tuple[Column, ...]:
        """The encoding: out of fold in the train split."""
        folds = len(self.priors) - 1
        place = F.when(F.col(IN_TRAIN), _fold(folds)).otherwise(F.lit(folds))
        prior = F.get(F.array(*(F.lit(prior) for prior in self.priors)), place)
        return (F.coalesce(F.get(self.found("array<double>"), place), prior),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The encoding of the whole train split, as rows that are served have it."""
        texts = self.texts(rows)
        whole = pa.array([each[-1] for each in self.encodings], pa.float64())
        if self.stored:
            whole = pc.list_element(self.loaded_values(), len(self.priors) - 1)
        found = pc.take(whole, self.places(texts)).fill_null(self.priors[-1])
        return (floats(np.asarray(found.to_numpy(zero_copy_only=False))),)


class _Smoothing:
    """The label's sums over the train split, and what they make of a word's."""

    def __init__(self, how: Categorical, values: Mapping[str, Any]) -> None:
        rows = [values[f"{FOLD_ROWS} {fold}"] for fold in range(how.folds)]
        sums = [values[f"{FOLD_SUM} {fold}"] or 0.0 for fold in range(how.folds)]
        self.smoothing = how.smoothing
        spread = values[DEVIATION] or 0.0
        self.mean = rounded(values[MEAN], beside=spread)
        self.deviation = rounded(spread, beside=spread) or 1.0
        self.priors = [
            # Of one fold only, nothing is left without it.
            (sum(sums) - out_sum) / (sum(rows) - out_rows) if sum(rows) > out_rows else self.mean
            for out_rows, out_sum in [*zip(rows, sums, strict=True), (0, 0.0)]
        ]

    @classmethod
    def of(cls, how: Categorical, measured: Measured) -> _Smoothing:
        """From what was measured."""
        return cls(how, measured.values)

    def scaled_number(self, encoding: float) -> float:
        """In deviations from the mean, rounded."""
        return round((encoding - self.mean) / self.deviation * PLACES) / PLACES

    def encodings(self, tally: Tally) -> Column:
        """The encodings of a word, `array<double>` [folds + 1]."""
        rows = F.aggregate(tally.rows_by_fold, F.lit(0).cast("bigint"), lambda a, b: a + b)
        total = F.aggregate(tally.sums_by_fold, F.lit(0.0), lambda a, b: a + b)
        made = []
        for fold, prior in enumerate(self.priors):
            # There is no fold behind the last, so nothing is left out of the whole.
            out_rows = F.coalesce(F.get(tally.rows_by_fold, F.lit(fold)), F.lit(0))
            out_sum = F.coalesce(F.get(tally.sums_by_fold, F.lit(fold)), F.lit(0.0))
            smoothed = (total - out_sum + F.lit(self.smoothing * prior)) / (
                rows - out_rows + F.lit(self.smoothing)
            )
            scaled = (smoothed - F.lit(self.mean)) / F.lit(self.deviation)
            made.append(F.rint(scaled * F.lit(float(PLACES))) / F.lit(float(PLACES)))
        return F.array(*made)


def _label_by_fold(folds: int) -> Mapping[str, Column]:
    """Rows and sum of the label by fold, its mean and deviation."""
    label = F.col(TARGET)
    measures = {MEAN: F.avg(label), DEVIATION: F.stddev_pop(label)}
    for fold in range(folds):
        is_in = _fold(folds) == fold
        measures[f"{FOLD_ROWS} {fold}"] = F.count_if(is_in)
        measures[f"{FOLD_SUM} {fold}"] = F.sum(F.when(is_in, label))
    return measures


def _fold(folds: int) -> Column:
    return F.pmod(F.col(ROW_HASH), F.lit(folds)).cast("int")


def id_or_reserved(text: Column, found: Column) -> Column:
    """The id found, or one of the reserved ones."""
    known = F.coalesce(found, F.lit(UNKNOWN_ID))
    return F.when(text.isNull(), MISSING_ID).otherwise(known)


def ids_of(texts: pa.Array, places: pa.Array) -> pa.Array:
    """The same of places in the vocabulary, without Spark."""
    ids = pc.add(places, pa.scalar(FIRST_ID, pa.int32())).fill_null(UNKNOWN_ID)
    return pc.if_else(texts.is_null(), pa.scalar(MISSING_ID, pa.int32()), ids)


KIND = Kind(
    in_version_1=True,
    name="categorical",
    settings=Categorical,
    fitted=FittedCategory,
    others={"hash": FittedHash, "frequency": FittedFrequency, "target": FittedTarget},
    need=ANYTHING,
)
