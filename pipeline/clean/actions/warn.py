"""Rows that fail stay, and are counted."""

from __future__ import annotations

from typing import ClassVar

from pipeline.clean.actions.action import Action


class Warn(Action):
    """Rows that fail stay in `clean`; the outcome, `quality` and the report say how many."""

    name: ClassVar = "warn"
    warns: ClassVar = True
