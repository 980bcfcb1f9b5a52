"""From clean rows to what a network is given: label, splits, features."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, create_model, model_validator

from pipeline.config.histories import History, LaterEvents, history_columns, history_texts
from pipeline.config.label import Label
from pipeline.config.splits import AnySplits, StratifiedSplits
from pipeline.errors import ConfigError
from pipeline.features.kinds import FeatureSettings, Kind, kinds, register
from pipeline.settings import Name, Positive, Settings, is_pattern


class Described(Settings):
    """Stage 2: `clean` to `features`, without the sections of the kinds."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"kinds", "entities", "histories", "outcomes", "weight"}
    )

    keys: tuple[str, ...] = Field(min_length=1)
    """Columns that name a row; they are carried to the predictions."""
    label: Label
    splits: AnySplits
    entities: tuple[str, ...] = ()
    """Columns of `clean`, such as a customer's id: how many of their values are in train and in
    another split is counted and reported."""
    leakage: tuple[str, ...]
    """Columns known only after the moment of prediction; no feature can be made of them."""
    histories: dict[Name, History] = {}
    """New columns made of each entity's earlier events: see docs/histories.md."""
    outcomes: dict[Name, LaterEvents] = {}
    """New columns made of each entity's later events, for `label` alone; see docs/histories.md."""
    derive: dict[Name, str] = {}
    """New column to Spark SQL over `clean` without the leakage columns."""
    weight: str | None = Field(default=None, min_length=1)
    """Spark SQL, as under `derive`: how much a row counts in the training's loss, from 0 on."""
    kinds: str | None = None
    """Module with kinds of features of the user's own, see docs/extending.md."""
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
        for section, given in self.sections().items():
            sections[section] = {
                name: how for each, how in given.items() for name in _matching(section, each, free)
            } | {name: how for name, how in given.items() if not is_pattern(name)}
        return self.model_copy(update={**sections, "leakage": tuple(dict.fromkeys(leakage))})

    def sections(self) -> Mapping[str, Mapping[str, FeatureSettings]]:
        """What each kind makes: name of the kind -> name of the feature -> its settings."""
        return {name: getattr(self, name) for name in kinds() if name in type(self).model_fields}

    def asked(self) -> list[tuple[Kind, str, FeatureSettings]]:
        """All features: kind, name and settings, in the order of a network's inputs."""
        return [
            (kinds()[section], name, how)
            for section, given in self.sections().items()
            for name, how in given.items()
        ]

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Self:
        if not self.asked():
            raise ValueError(f"no feature at all: name one under {', '.join(self.sections())}")
        used = [("keys", self.keys), ("derive", tuple(self.derive))]
        used += [(kind.name, how.reads(name)) for kind, name, how in self.asked()]
        for section, columns in used:
            leaked = sorted(set(columns) & set(self.leakage))
            if leaked:
                raise ValueError(
                    f"{section}.{leaked[0]} is listed under leakage: it is not known at prediction"
                )
        return self

    @model_validator(mode="after")
    def _only_labels_look_ahead(self) -> Self:
        """Refuses outcomes elsewhere; under `derive` and `weight`, featurize does."""
        outcomes = {column for column, _, _ in history_columns(self.outcomes)}
        texts = {
            **{f"{kind.name}.{name}": how.reads(name) for kind, name, how in self.asked()},
            "keys": self.keys,
            "entities": self.entities,
            "histories": history_texts(self.histories).values(),
            "outcomes": history_texts(self.outcomes).values(),
            "splits": [str(self.splits.model_dump())],
        }
        for setting, written in texts.items():
            found = sorted(
                outcomes & {word for text in written for word in re.findall(r"\w+", text)}
            )
            if found:
                raise ValueError(
                    f"{setting}: {found[0]!r} is an outcome; at the moment of prediction it is not "
                    "known, and only features.label can use it"
                )
        return self

    @model_validator(mode="after")
    def _strata_are_few(self) -> Self:
        unnamed = isinstance(self.splits, StratifiedSplits) and self.splits.expression is None
        if unnamed and not self.label.definition.label_is_stratum:
            raise ValueError(
                f"splits.expression is missing: a label of the task {self.label.task} does not "
                "divide rows into a few strata; write an expression, such as `floor(price / 100)`"
            )
        return self

    @model_validator(mode="after")
    def _made_for_the_task(self) -> Self:
        for kind, name, how in self.asked():
            refusal = how.refusal(self.label.definition)
            if refusal:
                raise ValueError(f"{kind.name}.{name}: {refusal}")
        return self


def _with_sections(base: type[Described], listed: Iterable[Kind]) -> type[Described]:
    """A description that has a section for each of these kinds."""
    new = [kind for kind in listed if kind.name not in base.model_fields]
    later = {kind.name for kind in new if not kind.in_version_1}
    fields: dict[str, Any] = {kind.name: (dict[str, kind.settings], {}) for kind in new}  # type: ignore[name-defined]
    made = create_model("Features", __base__=base, __module__=__name__, **fields)
    made.added = base.added | later
    return made


if TYPE_CHECKING:
    Features = Described
else:
    Features = _with_sections(Described, kinds().values())


def with_own_kinds(given: Any) -> Any:
    """A section `features` that names kinds of the user's own, checked with their sections.

    Raises:
        ConfigError: They cannot be used.
        ValidationError: A setting is wrong.
    """
    described = described_by(given)
    return given if described is Features else described.model_validate(given)


def described_by(given: Any) -> type[Described]:
    """The class of a section `features`: it has sections for kinds of the user's own.

    Args:
        given: The section as it was read.

    Raises:
        ConfigError: The kinds cannot be used.
    """
    named = given.get("kinds") if isinstance(given, dict) else None
    if not isinstance(named, str):
        return Features
    register(named, reserved=(*Described.model_fields, *dir(Described)))
    return _with_sections(Features, kinds().values())


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
