"""From raw files to clean rows."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.clean.actions import ACTIONS, Action
from pipeline.config.actions import ActionName
from pipeline.config.asof import Asof
from pipeline.config.source import Files
from pipeline.config.table_rules import TableRule
from pipeline.settings import ColumnName, Name, Settings, require_known


class Rule(Settings):
    """A condition that every row should meet."""

    check: str = Field(min_length=1)
    """Spark SQL expression over the contract's columns; a row passes only when it is true."""
    action: ActionName
    """What happens to rows that fail: `drop`, `quarantine`, `warn` (kept, counted), `fail`."""

    @property
    def consequence(self) -> Action:
        """All that is particular to the action."""
        return ACTIONS[self.action]


class Dedupe(Settings):
    """Which rows are the same thing, and which of them stays."""

    keys: tuple[str, ...] = Field(min_length=1)
    latest_by: tuple[str, ...] = ()
    """Columns that tell which row is newest; ties go to the last file and position."""


class Join(Files):
    """A right side, joined to every row (left join): by a unique key, or also by time.

    Without `asof` the right side is small and is broadcast; with it, it may be of any size.
    """

    added: ClassVar = Files.added | {"asof"}

    on: dict[str, str] = Field(min_length=1)
    """Column of the left side to column of the right side."""
    select: dict[ColumnName, str] = Field(min_length=1)
    """New column to the right side's column it is taken from."""
    asof: Asof | None = None
    """Of several right rows with the key, takes the latest that is not after the row."""

    @property
    def compared(self) -> tuple[tuple[str, str], ...]:
        """Columns of the left and of the right side that decide which rows match."""
        times = [] if self.asof is None else [(self.asof.left, self.asof.right)]
        return (*self.on.items(), *times)

    @model_validator(mode="after")
    def _columns_are_in_the_contract(self) -> Self:
        for setting, names in (("on", self.on.values()), ("select", self.select.values())):
            require_known(setting, names, self.columns)
        if self.asof is not None:
            self.asof.require_ordered("asof.right", self.asof.right, self)
        return self


ROW_ID = "row_id"
"""Column that names a row where `clean.row_id` asks for one."""


class Period(Settings):
    """The partition of time that tables share; large enough that files do not become small."""

    column: Name
    expression: str
    """Spark SQL over the contract's columns, giving a string that sorts by time."""


class Clean(Settings):
    """Stage 1: raw files to the tables `clean`, `quarantine` and `quality`."""

    added: ClassVar = frozenset({"row_id", "table_rules"})

    row_id: Literal["position", "content"] | None = None
    """Adds the column `row_id`, a stable name of a row: `position`, its file's name and its place
    in it; `content`, a hash of its values, so that equal rows have equal ids."""

    rules: dict[Name, Rule] = {}
    table_rules: dict[Name, TableRule] = {}
    """What must hold of all accepted rows together: see docs/quality.md."""
    dedupe: Dedupe | None = None
    joins: dict[Name, Join] = {}
    period: Period
