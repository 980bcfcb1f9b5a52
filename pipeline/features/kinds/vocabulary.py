"""Fitted parts that know words: in the spec where there are few, else in a table of the lake.

A small vocabulary is a constant of the plan. A large one is joined, by Spark's shuffle or
broadcast, whichever Spark finds cheaper; words are unique, so a row meets one at most.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PrivateAttr
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.errors import SpecError
from pipeline.features.kinds.columns import FIRST_ID
from pipeline.features.kinds.kind import Fitted, Stored

WORD, ID, VALUES = "word", "id", "values"
"""Columns of a stored vocabulary: each word once, its id from `FIRST_ID` on, what is known of it.
"""


class FittedWords(Fitted):
    """What all fitted parts with a vocabulary share."""

    words: tuple[str, ...] = ()
    """In the order of their ids; empty where they are stored."""
    stored: Stored | None = None

    entry: ClassVar[str] = ID
    """Column of a stored vocabulary that `spark` needs."""

    _loaded: pa.Table | None = PrivateAttr(default=None)

    @property
    def vocabulary(self) -> Stored | None:
        """The stored vocabulary; None where the words are here."""
        return self.stored

    @property
    def size(self) -> int:
        """Number of words."""
        return self.stored.words if self.stored else len(self.words)

    def text(self) -> Column:
        """What is looked up, by Spark: a string, null where it is missing."""
        raise NotImplementedError

    def entries(self) -> Mapping[str, Any]:
        """Each word of the spec -> what `found` gives for it, as JSON has it."""
        return {word: place for place, word in enumerate(self.words, FIRST_ID)}

    def found(self, kind: str = "int") -> Column:
        """What is known of the row's word: `entry`, null for a missing or unknown word.

        Args:
            kind: Spark's type of `entry`.
        """
        if self.stored:
            return F.col(self._hidden)
        return looked_up(self.text(), self.entries(), kind)

    def joined(self, frame: DataFrame, words: DataFrame) -> DataFrame:
        """Adds the column that `found` reads.

        A left join: null meets no word, and a word that fills many rows is streamed, as only the
        vocabulary's side is held; Spark's adaptive execution splits its partition among tasks.
        """
        key = f"_word{self._hidden}"
        known = words.select(F.col(WORD).alias(key), F.col(self.entry).alias(self._hidden))
        return frame.withColumn(key, self.text()).join(known, key, "left").drop(key)

    def with_words(self, words: pa.Table) -> Self:
        """The same part with its stored vocabulary in memory.

        Args:
            words: Columns `word`, `id`, `values`, in the order of the ids.
        """
        loaded = self.model_copy()
        loaded._loaded = words.combine_chunks()  # noqa: SLF001 - of its own class
        return loaded

    def places(self, texts: pa.Array) -> pa.Array:
        """Places of some words in the vocabulary, int32 from 0 on; null where unknown or missing.

        Raises:
            SpecError: The vocabulary is stored, and was not loaded.
        """
        known = pa.array(self.words, pa.string()) if self.stored is None else self._in_memory(WORD)
        return pc.index_in(texts, known, skip_nulls=True)

    def loaded_values(self) -> pa.Array:
        """The column `values` of the stored vocabulary."""
        return self._in_memory(VALUES)

    def word(self, id_: int) -> str:
        """The word of an id, as far as the spec itself knows it."""
        place = id_ - FIRST_ID
        return self.words[place] if place < len(self.words) else super().word(id_)

    @property
    def _hidden(self) -> str:
        return f"_found_{self.kind}_{self.column}"

    def _in_memory(self, column: str) -> pa.Array:
        if self._loaded is None:
            raise SpecError(
                f"features.{self.kind}.{self.column}",
                f"its {self.size} words are in the table {self.stored and self.stored.table}",
                "Give features_of the words too: pipeline.features.vocabularies.load.",
            )
        values = self._loaded[column]
        return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def looked_up(text: Column, entries: Mapping[str, Any], kind: str) -> Column:
    """What a constant of the plan says of a text; null where it says nothing.

    Spark looks a key up in a map one by one. So the words lie in buckets by their CRC-32, which
    Spark and Python compute alike: the time per row does not grow with the vocabulary.

    Args:
        text: A string.
        entries: Word -> value, as JSON has it.
        kind: Spark's type of the values.
    """
    if not entries:
        return F.lit(None).cast(kind)
    buckets: list[dict[str, Any]] = [{} for _ in entries]
    for word, value in entries.items():
        buckets[zlib.crc32(word.encode()) % len(buckets)][word] = value
    # A constant for the optimiser: parsed once, when the plan is made.
    constant = F.from_json(F.lit(json.dumps(buckets)), f"array<map<string,{kind}>>")
    bucket = F.get(constant, (F.crc32(text) % len(buckets)).cast("int"))
    return F.try_element_at(bucket, text)
