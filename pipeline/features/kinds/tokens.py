"""The kind `tokens`: a text as the ids of its words."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pyspark.errors import IllegalArgumentException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import SpecError
from pipeline.features.kinds.columns import FeatureColumn, Sequence
from pipeline.features.kinds.kind import A_TEXT, FeatureSettings, Fitted, Kind, Measured
from pipeline.features.kinds.values import rows_of
from pipeline.settings import Positive

WORDS = r"[^\p{L}\p{N}]+"


class Tokens(FeatureSettings):
    """A text as the ids of its words, by a hash: nothing to fit, and no word is out of it."""

    separator: str = WORDS
    """Regular expression (Java) of what stands between words; words are put in lower case."""
    buckets: Annotated[int, Field(ge=2, lt=2**31)] = 32_768
    """Ids that words are hashed to; 0 stays for the padding."""
    longest: Positive = 512
    """Words kept, from the beginning."""

    @property
    def form(self) -> type[FeatureColumn]:
        """One of `pipeline.features.kinds.columns`."""
        return Sequence

    def fitted(self, name: str, measured: Measured) -> FittedTokens:
        """Returns the part; nothing is fitted."""
        del measured
        return FittedTokens(
            column=name, separator=self.separator, buckets=self.buckets, longest=self.longest
        )


class FittedTokens(Fitted):
    """The first words of a text as ids, one column, `array<int>`: 1 + CRC-32 % (buckets - 1).

    Words are in lower case and not empty; 0 is the padding. A missing text has no words.
    """

    kind: Literal["tokens"] = "tokens"
    separator: str
    buckets: int
    longest: int

    traceless: ClassVar[Literal["null", "no number"] | None] = "null"

    def columns(self) -> tuple[FeatureColumn, ...]:
        """`tokens_<column>`."""
        name = f"tokens_{self.column}"
        return (
            Sequence(
                name=name,
                source=self.column,
                longest=self.longest,
                ids=self.buckets,
                prefix="tokens",
            ),
        )

    def spark(self) -> tuple[Column, ...]:
        """The ids of the first words; an empty array for null."""
        words = F.split(F.lower(F.col(self.column)), self.separator)
        kept = F.slice(F.filter(words, lambda word: word != ""), 1, self.longest)
        # CRC-32, as Spark and Python compute it alike.
        ids = F.transform(kept, lambda word: (F.crc32(word) % (self.buckets - 1) + 1).cast("int"))
        return (F.coalesce(ids, F.array().cast("array<int>")),)

    def arrow(self, rows: Mapping[str, pa.Array]) -> tuple[pa.Array, ...]:
        """The ids of the first words; an empty array for null."""
        texts = rows_of(rows, self.column).cast(pa.string())
        # Python lowers as Java does, by Unicode's special casing; Arrow does not.
        lower = pa.array([text and text.lower() for text in texts.to_pylist()], pa.string())
        try:
            split = pc.split_pattern_regex(lower, self.separator)
        except pa.ArrowInvalid as error:
            raise SpecError(
                f"features.tokens.{self.column}.separator",
                f"{self.separator!r} is understood by Java only: {error}",
                "Write it without what RE2 lacks, such as look-ahead, and fit again.",
            ) from error
        words = ([word for word in each or () if word] for each in split.to_pylist())
        ids = [[self._id(word) for word in each[: self.longest]] for each in words]
        return (pa.array(ids, pa.list_(pa.int32())),)

    def _id(self, word: str) -> int:
        return zlib.crc32(word.encode()) % (self.buckets - 1) + 1


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
    need=A_TEXT,
    check=_require_pattern,
)
