"""Rows that fail are left out."""

from __future__ import annotations

from typing import ClassVar

from pipeline.clean.actions.action import Action


class Drop(Action):
    """Rows that fail are in no table; they are counted under the first such rule that they fail."""

    name: ClassVar = "drop"
    verdict: ClassVar = "drop"
