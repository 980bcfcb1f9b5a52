"""The base class and the types of all sections of a pipeline description."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
# Spark takes a dot for a field of a struct; names that begin with an underscore are ours.
ColumnName = Annotated[str, Field(pattern=r"^[^_.`][^.`]*$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _known_zone(name: str) -> str:
    known = available_timezones()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"there is no time zone {name!r}{hint}")
    return name


TimeZone = Annotated[str, AfterValidator(_known_zone)]
"""IANA name, such as `Europe/Berlin`."""


class Settings(BaseModel):
    """What all sections share: no unknown key, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    added: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after 0.1. A dump leaves them out while they have their defaults, so that
    the fingerprints of tables written before stay as they were."""

    @model_serializer(mode="wrap")
    def _without_added_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        for name in self.added:
            field = type(self).model_fields[name]
            if getattr(self, name) == field.get_default():
                dumped.pop(field.alias or name, None)
        return dumped


def require_known(setting: str, names: Collection[str], known: Collection[str]) -> None:
    """Refuses names of columns that are not there, with one that is like the first.

    Args:
        setting: Where the names are, for the message.
        names: Names of columns; one with `*` or `?` stands for any number of them.
        known: Columns that are there; also patterns, for columns that only the files tell.

    Raises:
        ValueError: It names the setting and the column.
    """
    patterns = [name for name in known if is_pattern(name)]
    unknown = sorted(
        name
        for name in set(names) - set(known)
        if not is_pattern(name) and not any(fnmatchcase(name, each) for each in patterns)
    )
    if unknown:
        close = difflib.get_close_matches(unknown[0], list(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
        raise ValueError(f"{setting}: there is no column {unknown[0]!r}{hint}")


def is_pattern(name: str) -> bool:
    """Whether a name stands for all columns that match it."""
    return "*" in name or "?" in name
