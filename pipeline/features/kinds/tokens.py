"""The kind `tokens`: a text as the ids of its words, or of its runs of characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from pyspark.errors import IllegalArgumentException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import SpecError
from pipeline.features.kinds.columns import FIRST_ID, UNKNOWN_ID, FeatureColumn, Sequence
from pipeline.features.kinds.hashing import Buckets, hashed, hashed_word
from pipeline.features.kinds.kind import (
    A_TEXT,
    FeatureSettings,
    Fitted,
    Kind,
    Measured,
    Words,
)
from pipeline.features.kinds.units import runs, runs_of, words, words_of
from pipeline.features.kinds.values import rows_of
from pipeline.features.kinds.vocabulary import ID, WORD, FittedWords, looked_up
from pipeline.settings import Positive

WORDS = r"[^\p{L}\p{N}]+"


class Tokens(FeatureSettings):
    """A text as the ids of its words, or of its runs of characters.

    `hash`: an id by a hash, nothing to fit, and no word is out of it. `vocabulary`: an id for each
    frequent word.
    """

    added: ClassVar[frozenset[str]] = frozenset(
        {"encoding", "units", "ngrams", "minimum_count", "largest"}
    )

    separator: str = WORDS
    """Regular expression (Java) of what stands between words; words are put in lower case."""
    buckets: Buckets = 32_768
    """For `hash`: ids that words are hashed to; 0 stays for the padding."""
    longest: Positive = 512
    """Words kept, from the beginning."""
    encoding: Literal["hash", "vocabulary"] = "hash"
    units: Literal["words", "characters"] = "words"
    ngrams: tuple[Positive, Positive] = (3, 3)
    """For `characters`: least and greatest length of the runs."""
    minimum_count: Positive = 20
    """For `vocabulary`: words that occur less often in the train split count as never seen."""
    largest: Annotated[int, Field(gt=0, le=1_000_000)] = 30_000
    """For `vocabulary`: only so many words have an id, the most frequent ones."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Sequence

    def words(self, name: str) -> Words | None:
        """The words of all texts, of each text those that are kept."""
        if self.encoding == "hash":
            return None
        units = self._cut(name).units()
        return Words(units, self.minimum_count, is_list=True, largest=self.largest)

    def fitted(self, name: str, measured: Measured) -> FittedText:
        """Returns the vocabulary, or the number of buckets."""
        cut = self._cut(name)
        if self.encoding == "hash":
            return cut
        return FittedTokenWords(
            **cut.model_dump(exclude={"buckets"}),
            words=tuple(each.word for each in measured.words),
            stored=measured.stored,
        )

    def _cut(self, name: str) -> FittedTokens:
        return FittedTokens(
            column=name,
            separator=self.separator,
            unit=self.units,
            ngrams=self.ngrams,
            buckets=self.buckets,
            longest=self.longest,
        )

    @model_validator(mode="after")
    def _settings_of_the_encoding(self) -> Self:
        for setting, (which, value) in _ONLY_FOR.items():
            if setting in self.model_fields_set and getattr(self, which) != value:
                raise ValueError(
                    f"{setting} says nothing to the {which} {getattr(self, which)}, only to {value}"
                )
        if self.ngrams[0] > self.ngrams[1] or self.ngrams[1] > LONGEST_RUN:
            raise ValueError(
                f"ngrams: {list(self.ngrams)} is no range of lengths from 1 to {LONGEST_RUN}, such "
                "as [2, 4]"
            )
        return self


LONGEST_RUN = 16
_ONLY_FOR = {
    "separator": ("units", "words"),
    "ngrams": ("units", "characters"),
    "buckets": ("encoding", "hash"),
    "minimum_count": ("encoding", "vocabulary"),
    "largest": ("encoding", "vocabulary"),
}


class FittedText(Fitted):
    """What both encodings share: how a text is cut into units, see units.py."""

    kind: Literal["tokens"] = "tokens"
    separator: str
    unit: Literal["words", "characters"] = "words"
    ngrams: tuple[int, int] = (3, 3)
    longest: int

    traceless: ClassVar[Literal["null", "no number"] | None] = "null"

    @property
    def ids(self) -> int:
        """Number of ids, the padding's 0 included."""
        raise NotImplementedError

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`tokens_<column>`."""
        return (
            Sequence(
                name=f"tokens_{self.column}",
                source=self.column,
                longest=self.longest,
                ids=self.ids,
                prefix="tokens",
            ),
        )

    def units(self) -> Column:
        """The first units of the text, `array<string>`; null for null."""
        text = F.col(self.column)
        if self.unit == "words":
            return words(text, self.separator, self.longest)
        return runs(text, *self.ngrams, self.longest)

    def units_of(self, rows: Mapping[str, pa.Array]) -> Iterator[list[str]]:
        """The same without Spark, none for null."""
        texts = rows_of(rows, self.column).cast(pa.string())
        if self.unit == "words":
            setting = f"features.tokens.{self.column}"
            return words_of(texts, self.separator, self.longest, setting)
        return runs_of(texts, *self.ngrams, self.longest)


class FittedTokens(FittedText):
    """The first words of a text as ids, one column, `array<int>`: 1 + CRC-32 % (buckets - 1).

    Words are in lower case and not empty; 0 is the padding. A missing text has no words.
    """

    buckets: int

    @property
    def ids(self) -> int:
        """The buckets."""
        return self.buckets

    def spark(self) -> tuple[Column, ...]:
        """The ids of the first words; an empty array for null."""
        ids = F.transform(self.units(), lambda word: hashed(word, self.buckets))
        return (F.coalesce(ids, F.array().cast("array<int>")),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The ids of the first words; an empty array for null."""
        ids = [[hashed_word(word, self.buckets) for word in each] for each in self.units_of(rows)]
        return (pa.array(ids, pa.list_(pa.int32())),)


class FittedTokenWords(FittedText, FittedWords):
    """The first words of a text as ids, one column, `array<int>`: the place in the vocabulary + 2.

    Words are in lower case and not empty; 0 is the padding, 1 a word out of vocabulary. A missing
    text has no words. The vocabulary is that of scikit-learn's CountVectorizer, its `max_features`
    being `largest`, in the order of the words.
    """

    encoding: Literal["vocabulary"] = "vocabulary"

    @property
    def ids(self) -> int:
        """The words, and the two reserved ids."""
        return FIRST_ID + self.size

    def joined(self, frame: DataFrame, words: DataFrame) -> DataFrame:
        """Adds the ids of the words: the vocabulary comes as one row that Spark broadcasts.

        To join word by word would move each row as often as it has words. `largest` bounds the row.
        """
        table = f"_table{self._hidden}"
        with_table = frame.crossJoin(F.broadcast(_in_one_row(words, self.size, table)))
        unknown = F.lit(UNKNOWN_ID)

        def known(word: Column) -> Column:
            bucket = F.get(F.col(table), (F.crc32(word) % self.size).cast("int"))
            return F.coalesce(F.try_element_at(bucket, word), unknown)

        ids = F.transform(self.units(), known)
        return with_table.withColumn(self._hidden, ids).drop(table)

    def spark(self) -> tuple[Column, ...]:
        """The ids of the first words; an empty array for null."""
        ids = F.col(self._hidden)
        if self.stored is None:
            entries, unknown = self.entries(), F.lit(UNKNOWN_ID)
            ids = F.transform(
                self.units(), lambda word: F.coalesce(looked_up(word, entries, "int"), unknown)
            )
        return (F.coalesce(ids, F.array().cast("array<int>")),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The ids of the first words; an empty array for null."""
        units = pa.array(list(self.units_of(rows)), pa.list_(pa.string()))
        places = self.places(units.values)
        ids = pc.add(places, pa.scalar(FIRST_ID, pa.int32())).fill_null(UNKNOWN_ID)
        return (pa.ListArray.from_arrays(units.offsets, ids),)


def _in_one_row(words: DataFrame, size: int, name: str) -> DataFrame:
    """A vocabulary as one row: an array of maps, a word's map at its CRC-32 % size."""
    bucket = (F.crc32(WORD) % size).alias("bucket")
    maps = words.groupBy(bucket).agg(F.collect_list(F.struct(WORD, ID)).alias("entries"))
    # Each place has a bucket, empty ones too, and sorting puts them in their places.
    every = words.sparkSession.range(size).select(F.col("id").alias("bucket"))
    whole = every.join(maps, "bucket", "left").agg(
        F.array_sort(F.collect_list(F.struct("bucket", "entries"))).alias("buckets")
    )
    nothing = F.array().cast(f"array<struct<{WORD}:string,{ID}:int>>")
    as_map = F.transform(
        "buckets", lambda each: F.map_from_entries(F.coalesce(each["entries"], nothing))
    )
    return whole.select(as_map.alias(name))


def _require_pattern(setting: str, how: Any, spark: SparkSession) -> None:
    """Refuses a separator that Java does not understand."""
    try:
        spark._jvm.java.util.regex.Pattern.compile(how.separator)  # type: ignore[union-attr]  # noqa: SLF001
    except IllegalArgumentException as error:
        raise SpecError(
            f"{setting}.separator",
            f"{how.separator!r} is no regular expression: {str(error).splitlines()[0]}",
            "Write what stands between words, in Java's syntax.",
        ) from error


KIND = Kind(
    in_version_1=True,
    name="tokens",
    settings=Tokens,
    fitted=FittedTokens,
    others={"vocabulary": FittedTokenWords},
    need=A_TEXT,
    check=_require_pattern,
)
