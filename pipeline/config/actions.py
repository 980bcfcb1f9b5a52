"""The type of the setting `action` of rules: the names in the table of actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.clean.actions import ACTIONS

if TYPE_CHECKING:
    ActionName = str
else:
    ActionName = Literal[tuple(ACTIONS)]
"""A key of `ACTIONS`."""
