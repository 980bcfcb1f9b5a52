"""From clean rows to what a network is given: label, splits, features."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.histories import History
from pipeline.config.label import Label
from pipeline.config.splits import Splits
from pipeline.errors import ConfigError
from pipeline.settings import Name, Positive, Settings, is_pattern

FEATURE_SECTIONS = ("numeric", "categorical", "cyclic", "images", "tokens", "series")


class Numeric(Settings):
    """A number, scaled; a missing one becomes 0 after scaling and, if asked, sets an indicator."""

    scale: Literal["standard", "quantile", "none"] = "standard"
    """`standard`: minus mean, over deviation. `quantile`: rank among 31 quantiles, in [-1, 1]."""
    indicator: bool = False
    """Adds a column that is 1 where the value is missing."""


class Categorical(Settings):
    """A category as an id; ids below 2 are reserved: 0 missing, 1 out of vocabulary."""

    minimum_count: Positive = 20
    """Categories seen less often among the training rows get the out-of-vocabulary id."""


class Cyclic(Settings):
    """A number on a circle, such as the time of day, as its sine and cosine."""

    period: float = Field(gt=0)


class Image(Settings):
    """A picture in a binary column."""

    shape: tuple[Positive, ...] = Field(min_length=2, max_length=3)
    """Height and width, then channels if there are several."""
    encoding: Literal["raw", "png", "jpeg"] = "raw"
    """`raw`: a byte a value, rows from the top. PNG and JPEG ask for the extra `images`."""


class Tokens(Settings):
    """A text as the ids of its words, by a hash: nothing to fit, and no word is out of it."""

    separator: str = r"[^\p{L}\p{N}]+"
    """Regular expression (Java) of what stands between words; words are put in lower case."""
    buckets: Annotated[int, Field(ge=2, lt=2**31)] = 32_768
    """Ids that words are hashed to; 0 stays for the padding."""
    longest: Positive = 512
    """Words kept, from the beginning."""


class Series(Settings):
    """An array of numbers, of any length, such as the readings of a day."""

    longest: Positive = 512
    """Values kept, from the end: the newest."""


class Features(Settings):
    """Stage 2: `clean` to `features`."""

    added: ClassVar = frozenset({"histories"})

    keys: tuple[str, ...] = Field(min_length=1)
    """Columns that name a row; they are carried to the predictions."""
    label: Label
    splits: Splits
    leakage: tuple[str, ...]
    """Columns known only after the moment of prediction; no feature can be made of them."""
    histories: dict[Name, History] = {}
    """New columns made of each entity's earlier events: see docs/histories.md."""
    derive: dict[Name, str] = {}
    """New column to Spark SQL over `clean` without the leakage columns."""
    numeric: dict[str, Numeric] = {}
    categorical: dict[str, Categorical] = {}
    cyclic: dict[str, Cyclic] = {}
    images: dict[str, Image] = Field(default={}, max_length=1)
    tokens: dict[str, Tokens] = Field(default={}, max_length=1)
    series: dict[str, Series] = Field(default={}, max_length=1)
    rows_per_row_group: Positive = 8_192
    compression: Literal["lz4_raw", "snappy", "zstd", "uncompressed"] = "lz4_raw"
    """Of the table `features`. The stream reads `lz4_raw` fastest, see docs/stream.md; Trino reads
    only the others."""

    def expanded(self, columns: Sequence[str]) -> Features:
        """The same with each pattern of columns written out.

        Args:
            columns: Of `clean`. Keys and leakage are no features, whatever pattern they match.

        Raises:
            ConfigError: A pattern matches nothing.
        """
        leakage = [n for each in self.leakage for n in _matching("leakage", each, columns)]
        closed = {*self.keys, *leakage}
        free = [name for name in columns if name not in closed]
        sections: dict[str, dict[str, Any]] = {}
        for section in FEATURE_SECTIONS:
            given: dict[str, Any] = getattr(self, section)
            sections[section] = {
                name: how for each, how in given.items() for name in _matching(section, each, free)
            } | {name: how for name, how in given.items() if not is_pattern(name)}
        return self.model_copy(update={**sections, "leakage": tuple(dict.fromkeys(leakage))})

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Self:
        if not any(getattr(self, section) for section in FEATURE_SECTIONS):
            raise ValueError(f"no feature at all: name one under {', '.join(FEATURE_SECTIONS)}")
        if self.tokens and self.series:
            raise ValueError("tokens and series: a network reads one sequence; leave one out")
        for section in ("keys", "derive", *FEATURE_SECTIONS):
            leaked = sorted(set(getattr(self, section)) & set(self.leakage))
            if leaked:
                raise ValueError(
                    f"{section}.{leaked[0]} is listed under leakage: it is not known at prediction"
                )
        return self


def _matching(section: str, pattern: str, columns: Sequence[str]) -> list[str]:
    """The columns that a name stands for: itself, or those that match it."""
    if not is_pattern(pattern):
        return [pattern]
    matched = [name for name in columns if fnmatchcase(name, pattern)]
    if not matched:
        raise ConfigError(
            f"features.{section}.{pattern}",
            "matches no column of clean",
            f"Correct the pattern; clean has {', '.join(columns[:30])}.",
        )
    return matched
