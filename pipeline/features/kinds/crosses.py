"""The kind `crosses`: several columns taken together as one category."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.categorical import id_or_reserved, ids_of
from pipeline.features.kinds.columns import FIRST_ID, MISSING_ID, FeatureColumn, Id
from pipeline.features.kinds.hashing import Buckets, hashed, hashed_texts
from pipeline.features.kinds.kind import (
    ANYTHING,
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    Words,
)
from pipeline.features.kinds.values import rows_of, texts_in
from pipeline.features.kinds.vocabulary import FittedWords
from pipeline.settings import Positive

SEPARATOR, ESCAPE, NULL = "|", "\\", "\\N"
DEFAULT_BUCKETS = 10_000


class Crosses(FeatureSettings):
    """Several columns taken together: the values `JFK` and `LAX` are the category `JFK|LAX`."""

    columns: Annotated[tuple[str, ...], Field(min_length=2)]
    buckets: Buckets | None = None
    """Ids that categories are hashed to, 0 for missing ones included; 10,000 by default."""
    minimum_count: Positive | None = None
    """Makes a vocabulary instead: categories seen less often count as never seen."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Id

    def reads(self, name: str) -> tuple[str, ...]:
        """The columns; the feature's name is the user's."""
        del name
        return self.columns

    def words(self, name: str) -> Words | None:
        """The categories, with `minimum_count`."""
        del name
        if self.minimum_count is None:
            return None
        return Words(crossed(self.columns), self.minimum_count)

    def fitted(self, name: str, measured: Measured) -> Fitted:
        """Returns the vocabulary, or the number of buckets."""
        if self.minimum_count is None:
            return FittedHashedCross(
                column=name, crossed=self.columns, buckets=self.buckets or DEFAULT_BUCKETS
            )
        return FittedCross(
            column=name,
            crossed=self.columns,
            words=tuple(each.word for each in measured.words),
            stored=measured.stored,
        )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.buckets is not None and self.minimum_count is not None:
            raise ValueError(
                "buckets are for a hash, minimum_count for a vocabulary; leave one of them out"
            )
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns: {list(self.columns)} names a column twice")
        return self


class FittedHashedCross(Fitted):
    """1 + CRC-32 % (buckets - 1) of the joined text, 0 where all columns are missing.

    One column, `int`.

    Source: Cheng et al., Wide & Deep Learning for Recommender Systems (2016),
    https://arxiv.org/abs/1606.07792, 3.1; scikit-learn's FeatureHasher hashes likewise.
    """

    kind: Literal["crosses"] = "crosses"
    encoding: Literal["hash"] = "hash"
    crossed: tuple[str, ...]
    buckets: Buckets

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns."""
        return self.crossed

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`cross_<name>`."""
        name = f"cross_{self.column}"
        return (Id(name=name, source=self.column, size=self.buckets, unknown=None),)

    def spark(self) -> tuple[Column, ...]:
        """The id of each joined text."""
        return (F.coalesce(hashed(crossed(self.crossed), self.buckets), F.lit(MISSING_ID)),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The id of each joined text."""
        return (hashed_texts(crossed_texts(rows, self.crossed), self.buckets),)


class FittedCross(FittedWords):
    """The joined text's place in the vocabulary plus 2; 0 is missing, 1 out of vocabulary.

    One column, `int`. It is missing where all columns are.
    """

    kind: Literal["crosses"] = "crosses"
    encoding: Literal["vocabulary"] = "vocabulary"
    crossed: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns."""
        return self.crossed

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`cross_<name>`."""
        return (Id(name=f"cross_{self.column}", source=self.column, size=FIRST_ID + self.size),)

    def text(self) -> Column:
        """The joined text."""
        return crossed(self.crossed)

    def spark(self) -> tuple[Column, ...]:
        """The id of each joined text."""
        return (id_or_reserved(self.text(), self.found()),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The id of each joined text."""
        texts = crossed_texts(rows, self.crossed)
        return (ids_of(texts, self.places(texts)),)


def crossed(columns: tuple[str, ...]) -> Column:
    r"""The texts of some columns as one, by Spark; null where all are null.

    Within a value `\` becomes `\\` and `|` becomes `\|`, null is `\N`, and a bare `|` stands
    between: so different values never give the same text.
    """
    texts = [F.col(name).cast("string") for name in columns]
    escaped = [
        F.coalesce(_replaced(_replaced(text, ESCAPE), SEPARATOR), F.lit(NULL)) for text in texts
    ]
    return F.when(F.coalesce(*texts).isNotNull(), F.concat_ws(SEPARATOR, *escaped))


def crossed_texts(rows: Mapping[str, pa.Array], columns: tuple[str, ...]) -> pa.Array:
    """The same without Spark, strings [rows]."""
    texts = [texts_in(rows_of(rows, name), name) for name in columns]
    escaped = [
        pc.replace_substring(
            pc.replace_substring(text, ESCAPE, ESCAPE + ESCAPE), SEPARATOR, ESCAPE + SEPARATOR
        ).fill_null(NULL)
        for text in texts
    ]
    joined = pc.binary_join_element_wise(*escaped, SEPARATOR)
    return pc.if_else(pc.coalesce(*texts).is_null(), pa.scalar(None, pa.string()), joined)


def _replaced(text: Column, character: str) -> Column:
    return F.replace(text, F.lit(character), F.lit(ESCAPE + character))


KIND = Kind(
    name="crosses",
    settings=Crosses,
    fitted=FittedCross,
    others={"hash": FittedHashedCross},
    need=ANYTHING,
)
