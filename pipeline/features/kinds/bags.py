"""The kind `bags`: a list of ids in any order, such as the products of a basket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import model_validator
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, IntegralType, StringType

from pipeline.errors import SpecError
from pipeline.features.kinds.columns import FIRST_ID, UNKNOWN_ID, Bag, FeatureColumn
from pipeline.features.kinds.hashing import Buckets, hashed, hashed_word
from pipeline.features.kinds.kind import FeatureSettings, Fitted, Kind, Measured, Need, Words
from pipeline.features.kinds.values import rows_of, texts_in
from pipeline.features.kinds.vocabulary import looked_up
from pipeline.settings import Positive

IDS = Need(
    lambda kind: (
        isinstance(kind, ArrayType) and isinstance(kind.elementType, StringType | IntegralType)
    ),
    "a bag is to be an array of strings or whole numbers",
    "Derive one from it, such as split(column, ',').",
)


class Bags(FeatureSettings):
    """A list of strings or whole numbers whose order and repetition mean nothing."""

    buckets: Buckets = 32_768
    """Ids that elements are hashed to; 0 stays for the padding."""
    minimum_count: Positive | None = None
    """In place of a hash a vocabulary: of the elements of so many train rows at least."""
    longest: Positive = 64
    """Distinct ids kept, from the beginning."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Bag

    def words(self, name: str) -> Words | None:
        """The distinct elements of each row, where there is a vocabulary."""
        if self.minimum_count is None:
            return None
        return Words(F.array_distinct(_texts(name)), self.minimum_count, is_list=True)

    def fitted(self, name: str, measured: Measured) -> FittedBag:
        """Returns the vocabulary, in the order of its words, or the number of buckets."""
        if self.minimum_count is None:
            return FittedBag(column=name, buckets=self.buckets, longest=self.longest)
        if measured.stored is not None:
            raise SpecError(
                measured.setting,
                f"has {measured.stored.words} frequent elements, too many for a spec",
                "Raise minimum_count, or set buckets in its place.",
            )
        words = tuple(each.word for each in measured.words)
        return FittedBag(column=name, words=words, longest=self.longest)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.minimum_count is not None and "buckets" in self.model_fields_set:
            raise ValueError("set either buckets or minimum_count")
        return self


class FittedBag(Fitted):
    """The distinct ids of a list's elements, the first `longest`; one column, `array<int>`.

    An element's id is 1 + CRC-32 % (buckets - 1) of its text, or with a vocabulary its place plus
    2, and 1 out of it; 0 is the padding. Null elements are left out; a missing list is empty.

    Source: scikit-learn, MultiLabelBinarizer, as ids instead of zeros and ones; Weinberger et al.,
    Feature Hashing for Large Scale Multitask Learning (2009), https://arxiv.org/abs/0902.2206.
    """

    kind: Literal["bags"] = "bags"
    buckets: int | None = None
    words: tuple[str, ...] | None = None
    """The vocabulary, in the order of the ids; None for a hash."""
    longest: int

    traceless: ClassVar[Literal["null", "no number"] | None] = "null"

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`bag_<column>`."""
        ids = self.buckets or FIRST_ID + len(self.words or ())
        name = f"bag_{self.column}"
        return (Bag(name=name, source=self.column, longest=self.longest, ids=ids, prefix="bag"),)

    def spark(self) -> tuple[Column, ...]:
        """The distinct ids; an empty array for null."""
        known = F.filter(_texts(self.column), lambda text: text.isNotNull())
        ids = F.slice(F.array_distinct(F.transform(known, self._id_by_spark)), 1, self.longest)
        return (F.coalesce(ids, F.array().cast("array<int>")),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The distinct ids; an empty array for null."""
        lists = rows_of(rows, self.column)
        elements = texts_in(lists.flatten(), self.column).dictionary_encode()
        id_of = self._ids_of(elements.dictionary.to_pylist())
        ids = [None if place is None else id_of[place] for place in elements.indices.to_pylist()]
        ends = np.cumsum(np.asarray(lists.value_lengths().fill_null(0))).tolist()
        bags = [
            # 0 is no element's id.
            list(dict.fromkeys(id_ for id_ in ids[begin:end] if id_))[: self.longest]
            for begin, end in zip([0, *ends], ends, strict=False)
        ]
        return (pa.array(bags, pa.list_(pa.int32())),)

    def _id_by_spark(self, text: Column) -> Column:
        if self.words is None:
            return hashed(text, self._hashed_to)
        return F.coalesce(looked_up(text, self._places, "int"), F.lit(UNKNOWN_ID))

    def _ids_of(self, texts: list[str]) -> list[int]:
        if self.words is None:
            return [hashed_word(text, self._hashed_to) for text in texts]
        places = self._places
        return [places.get(text, UNKNOWN_ID) for text in texts]

    @property
    def _places(self) -> Mapping[str, int]:
        return {word: place for place, word in enumerate(self.words or (), FIRST_ID)}

    @property
    def _hashed_to(self) -> int:
        assert self.buckets is not None  # noqa: S101 - for mypy: one of the two is set
        return self.buckets


def _texts(name: str) -> Column:
    return F.transform(F.col(name), lambda element: element.cast("string"))


KIND = Kind(name="bags", settings=Bags, fitted=FittedBag, need=IDS)
