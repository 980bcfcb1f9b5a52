"""Rules about tables: what must hold of all accepted rows together.

A kind of rule is a class here, named by a setting of `TableRule`; what it measures and when it is
broken stands in `pipeline/clean/table_rules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from pipeline.clean.actions import ACTIONS, Action
from pipeline.config.actions import ActionName
from pipeline.config.source import Column, Files
from pipeline.config.types import Atomic, Decimal, is_orderable
from pipeline.settings import ColumnName, Name, Settings, require_known

_LONGEST_SPAN = 1_000_000
_SPAN = re.compile(r"(\d+)\s*(minute|hour|day|week)s?")
_TIMES = {"date", "timestamp", "timestamp_ntz"}
_NUMBERS = {"tinyint", "smallint", "int", "bigint", "float", "double"}

ColumnOf = Callable[[str], Column | None]
"""From a column's name to its contract; None for a column that is made of others."""


class Reference(Files):
    """Values must occur on a right side: that of a join, or files of the rule's own."""

    join: Name | None = None
    """A join under `clean.joins`: its files, and its `on`. `reference: NAME` means the same."""
    on: dict[str, str] = {}
    """Column of the left side to column of the right side."""
    columns: dict[ColumnName, Column] = {}
    """Contract of the right side."""

    @model_validator(mode="after")
    def _one_place_is_named(self) -> Self:
        if self.join is not None:
            if self.model_fields_set - {"join"}:
                raise ValueError("a join has its own files and columns: name nothing beside it")
            return self
        if bool(self.path) == bool(self.table):
            raise ValueError("name a join, a path or a table")
        if not self.on or not self.columns:
            raise ValueError("on and columns are needed: which column occurs in which one")
        require_known("on", self.on.values(), self.columns)
        return self


class Freshness(Settings):
    """The newest value of a time column is no older than this."""

    column: str
    within: str
    """Such as `2 days`, `36 hours`, `30 minutes` or `1 week`, before the time of the run."""

    @field_validator("within")
    @classmethod
    def _is_a_span(cls, text: str) -> str:
        match = _SPAN.fullmatch(text.strip())
        if not match:
            raise ValueError("write a number and minutes, hours, days or weeks, such as `2 days`")
        if not 0 < int(match[1]) <= _LONGEST_SPAN:
            raise ValueError(f"write a number from 1 to {_LONGEST_SPAN:,}")
        return text

    @property
    def span(self) -> timedelta:
        """`within` as a duration."""
        match = _SPAN.fullmatch(self.within.strip())
        if match is None:
            raise ValueError(f"{self.within!r} was checked when it was loaded")
        return timedelta(**{f"{match[2]}s": int(match[1])})


class RowCount(Settings):
    """How many rows are accepted."""

    minimum: int | None = Field(default=None, ge=0)
    maximum: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.minimum is None and self.maximum is None:
            raise ValueError("name a minimum, a maximum or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"the minimum {self.minimum} is above the maximum {self.maximum}")
        return self


class Nulls(Settings):
    """Which share of a column's values may be null."""

    column: str
    maximum_share: float = Field(ge=0, le=1)


class Distribution(Settings):
    """How far a column may move from the last accepted version of the table."""

    column: str
    maximum_psi: float = Field(gt=0)
    """Population stability index: below 0.1 alike, from 0.25 on another population."""


class TableRule(Settings):
    """One rule: exactly one kind, and what happens where it does not hold."""

    unique: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Columns whose values, together, occur once; rows with a null among them are not compared."""
    reference: Reference | None = None
    freshness: Freshness | None = None
    rows: RowCount | None = None
    nulls: Nulls | None = None
    distribution: Distribution | None = None
    action: ActionName
    """`warn`: noted. `fail`: nothing is committed. `quarantine` and `drop` take out the rows at
    fault, which only `unique` and `reference` can name."""

    of_rows: ClassVar = frozenset({"unique", "reference"})
    """Kinds that tell which rows are at fault."""

    @field_validator("reference", mode="before")
    @classmethod
    def _a_name_is_a_join(cls, given: Any) -> Any:
        return {"join": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = [name for name in type(self).model_fields if name != "action"]
        named = [name for name in kinds if getattr(self, name) is not None]
        if len(named) != 1:
            found = f"{' and '.join(named)} are named" if named else "none is named"
            raise ValueError(f"a rule has one kind, and {found}; kinds: {', '.join(kinds)}")
        if self.takes_rows_out and self.kind not in self.of_rows:
            others = [name for name, action in ACTIONS.items() if not action.takes_rows_out]
            raise ValueError(
                f"action {self.action}: {self.kind} is about the whole table, and no single row is "
                f"at fault; choose {' or '.join(others)}"
            )
        return self

    @property
    def kind(self) -> str:
        """The name of the setting that says what must hold."""
        kinds = (name for name in type(self).model_fields if name != "action")
        return next(name for name in kinds if getattr(self, name) is not None)

    @property
    def setting(self) -> Any:
        """What the setting of that name says."""
        return getattr(self, self.kind)

    @property
    def consequence(self) -> Action:
        """All that is particular to the action."""
        return ACTIONS[self.action]

    @property
    def takes_rows_out(self) -> bool:
        """Whether rows at fault are not accepted."""
        return self.consequence.takes_rows_out


def require_rules_fit(
    rules: Mapping[str, TableRule],
    *,
    contract: Collection[str],
    columns: Collection[str],
    joins: Collection[str],
    column_of: ColumnOf,
) -> None:
    """Refuses rules about columns that are not there, or that cannot be measured.

    Args:
        rules: Name to rule.
        contract: Columns before joins: single rows are judged by these.
        columns: Columns of `clean`.
        joins: Names of joins.
        column_of: The contract of a column of `clean`.

    Raises:
        ValueError: It names the rule.
    """
    for name, rule in rules.items():
        where = f"clean.table_rules.{name}.{rule.kind}"
        if rule.unique is not None:
            require_known(where, rule.unique, contract)
            require_comparable(where, rule.unique, column_of)
        elif rule.reference is not None:
            if rule.reference.join is not None and rule.reference.join not in joins:
                raise ValueError(f"{where}: there is no join {rule.reference.join!r}")
            require_known(f"{where}.on", rule.reference.on, contract)
        elif rule.freshness is not None:
            _require_measurable(where, rule.freshness.column, columns, column_of, _TIMES)
        elif rule.nulls is not None:
            require_known(where, [rule.nulls.column], columns)
        elif rule.distribution is not None:
            kinds = _NUMBERS | {"decimal", "string", "boolean"}
            _require_measurable(where, rule.distribution.column, columns, column_of, kinds)


def require_comparable(where: str, names: Collection[str], column_of: ColumnOf) -> None:
    """Refuses columns whose values Spark cannot compare.

    Raises:
        ValueError: It names the setting and the column.
    """
    for name in names:
        column = column_of(name)
        if column is not None and not is_orderable(column.kind):
            raise ValueError(f"{where}: {name!r} is {column.type}, which cannot be compared")


def _require_measurable(
    where: str, name: str, columns: Collection[str], column_of: ColumnOf, kinds: Collection[str]
) -> None:
    """What is measured of the column is stored in `quality`, so it must not be sensitive."""
    require_known(where, [name], columns)
    column = column_of(name)
    if column is None:
        return
    if column.sensitive:
        raise ValueError(f"{where}: {name!r} is sensitive, and its values would be in `quality`")
    kind = column.kind
    found = "decimal" if isinstance(kind, Decimal) else str(kind)
    if found not in kinds or not isinstance(kind, Atomic | Decimal):
        raise ValueError(f"{where}: {name!r} is {column.type}; allowed: {', '.join(sorted(kinds))}")
