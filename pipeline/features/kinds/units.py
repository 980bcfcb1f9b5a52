"""The units that a text is cut into, words or runs of characters, by Spark and by Python.

Runs of characters are those of scikit-learn's `CountVectorizer(analyzer="char")`: of the text in
lower case, each stretch of two or more white spaces made one space, first all runs of the least
length, then those of the next, each in the order of the text.

Source: https://scikit-learn.org/stable/modules/feature_extraction.html#limitations-of-the-bag-of-words-representation
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.errors import SpecError

# What Python's `\s` matches; Java's and RE2's `\s` are other sets.
WHITE_SPACES = (
    "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]{2,}"
)


def words(text: Column, separator: str, longest: int) -> Column:
    """The first words of a text in lower case, `array<string>`; null for null.

    Args:
        text: A string.
        separator: What stands between words, in Java's syntax; empty words are left out.
        longest: Words kept.
    """
    found = F.split(F.lower(text), separator)
    return F.slice(F.filter(found, lambda word: word != ""), 1, longest)


def words_of(texts: pa.Array, separator: str, longest: int, setting: str) -> Iterator[list[str]]:
    """The same without Spark, none for null.

    Raises:
        SpecError: Only Java understands the separator.
    """
    # Python lowers as Java does, by Unicode's special casing; Arrow does not.
    lower = pa.array([text and text.lower() for text in texts.to_pylist()], pa.string())
    try:
        split = pc.split_pattern_regex(lower, separator)
    except pa.ArrowInvalid as error:
        raise SpecError(
            f"{setting}.separator",
            f"{separator!r} is understood by Java only: {error}",
            "Write it without what RE2 lacks, such as look-ahead, and fit again.",
        ) from error
    return ([word for word in each or () if word][:longest] for each in split.to_pylist())


def runs(text: Column, shortest: int, widest: int, longest: int) -> Column:
    """The first runs of `shortest` to `widest` characters, `array<string>`; null for null.

    Args:
        text: A string.
        shortest: Characters of the shortest runs.
        widest: Characters of the widest.
        longest: Runs kept.
    """
    tidy = F.regexp_replace(F.lower(text), F.lit(WHITE_SPACES), F.lit(" "))
    # What lies behind the last run kept is not looked at.
    tidy = F.substring(tidy, 1, longest + widest)
    found = [_runs_of_width(tidy, width, longest) for width in range(shortest, widest + 1)]
    return F.when(text.isNotNull(), F.slice(F.concat(*found), 1, longest))


def _runs_of_width(text: Column, width: int, longest: int) -> Column:
    last = F.least(F.length(text) - (width - 1), F.lit(longest))
    places = F.sequence(F.lit(1), last)
    found = F.transform(places, lambda at: F.substring(text, at, F.lit(width)))
    # A sequence from 1 down to 0 would count backwards.
    return F.when(last > 0, found).otherwise(F.array().cast("array<string>"))


def runs_of(texts: pa.Array, shortest: int, widest: int, longest: int) -> Iterator[list[str]]:
    """The same without Spark, none for null."""
    white = re.compile(WHITE_SPACES)
    for text in texts.to_pylist():
        tidy = white.sub(" ", text.lower()) if text else ""
        found = (
            tidy[at : at + width]
            for width in range(shortest, widest + 1)
            for at in range(min(len(tidy) - width + 1, longest))
        )
        yield [run for _, run in zip(range(longest), found, strict=False)]
