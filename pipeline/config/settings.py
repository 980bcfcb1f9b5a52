"""What the sections of a description share."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
# Spark takes a dot for a field of a struct; names that begin with an underscore are ours.
ColumnName = Annotated[str, Field(pattern=r"^[^_.`][^.`]*$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """What all sections share: no unknown key, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def require_known(setting: str, names: Collection[str], known: Collection[str]) -> None:
    """Refuses names of columns that are not there, with one that is like the first.

    Raises:
        ValueError: It names the setting and the column.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        close = difflib.get_close_matches(unknown[0], list(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
        raise ValueError(f"{setting}: there is no column {unknown[0]!r}{hint}")
