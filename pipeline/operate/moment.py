"""How people read a moment."""

from __future__ import annotations

from datetime import UTC, datetime


def told(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
