"""One row that fails ends the run."""

from __future__ import annotations

from typing import ClassVar

from pipeline.clean.actions.action import Action


class Fail(Action):
    """The run ends with an error, and nothing is committed."""

    name: ClassVar = "fail"
    limits: ClassVar = True

    def ends_run(self, failing: int, rows: int) -> bool:
        """One row is one too many."""
        del rows
        return failing > 0
