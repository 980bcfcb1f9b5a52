"""The kind `categorical`: a category as an id."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import FIRST_ID, MISSING_ID, UNKNOWN_ID, FeatureColumn, Id
from pipeline.features.kinds.kind import ANYTHING, FeatureSettings, Fitted, Kind, Measured, Words
from pipeline.features.kinds.values import rows_of, texts_in
from pipeline.settings import Positive


class Categorical(FeatureSettings):
    """A category as an id; ids below 2 are reserved: 0 missing, 1 out of vocabulary."""

    minimum_count: Positive = 20
    """Categories seen less often among the training rows get the out-of-vocabulary id."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Id

    def words(self, name: str) -> Words:
        """The categories, as Spark writes them."""
        return Words(F.col(name).cast("string"), self.minimum_count)

    def fitted(self, name: str, measured: Measured) -> FittedCategory:
        """Returns the vocabulary, in the order of its words."""
        return FittedCategory(column=name, words=tuple(each.word for each in measured.words))


class FittedCategory(Fitted):
    """The word's place in the vocabulary plus 2; 0 is missing, 1 out of vocabulary.

    One column, `int`.
    """

    kind: Literal["categorical"] = "categorical"
    words: tuple[str, ...]

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`cat_<column>`."""
        size = FIRST_ID + len(self.words)
        return (Id(name=f"cat_{self.column}", source=self.column, size=size),)

    def spark(self) -> tuple[Column, ...]:
        """The id of each word.

        Spark looks a key up in a map one by one. So the words lie in buckets by their CRC-32,
        which Spark and Python compute alike: the time per row does not grow with the vocabulary.
        """
        text = F.col(self.column).cast("string")
        if not self.words:
            return (F.when(text.isNull(), MISSING_ID).otherwise(UNKNOWN_ID),)
        buckets: list[dict[str, int]] = [{} for _ in self.words]
        for place, word in enumerate(self.words):
            buckets[zlib.crc32(word.encode()) % len(buckets)][word] = place + FIRST_ID
        # A constant for the optimiser: parsed once, when the plan is made.
        constant = F.from_json(F.lit(json.dumps(buckets)), "array<map<string,int>>")
        bucket = F.get(constant, (F.crc32(text) % len(buckets)).cast("int"))
        known = F.coalesce(F.try_element_at(bucket, text), F.lit(UNKNOWN_ID))
        return (F.when(text.isNull(), MISSING_ID).otherwise(known),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The id of each word."""
        texts = texts_in(rows_of(rows, self.column), self.column)
        places = pc.index_in(texts, pa.array(self.words, pa.string()), skip_nulls=True)
        ids = pc.add(places, pa.scalar(FIRST_ID, pa.int32())).fill_null(UNKNOWN_ID)
        return (pc.if_else(texts.is_null(), pa.scalar(MISSING_ID, pa.int32()), ids),)

    def word(self, id_: int) -> str:
        """The category."""
        place = id_ - FIRST_ID
        return self.words[place] if place < len(self.words) else super().word(id_)


KIND = Kind(
    in_version_1=True,
    name="categorical",
    settings=Categorical,
    fitted=FittedCategory,
    need=ANYTHING,
)
