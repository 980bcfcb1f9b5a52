"""Rows that fail are set aside."""

from __future__ import annotations

from typing import ClassVar

from pipeline.clean.actions.action import Action


class Quarantine(Action):
    """Rows that fail go to the table `quarantine`, with all their reasons."""

    name: ClassVar = "quarantine"
    verdict: ClassVar = "quarantine"
