"""What an action is: everything that the rest of the system asks of one."""

from __future__ import annotations

from typing import ClassVar, Literal


class Action:
    """What happens to the rows that fail a rule, and to the run."""

    name: ClassVar[str]
    """The name that the YAML has for it."""

    verdict: ClassVar[Literal["clean", "quarantine", "drop"]] = "clean"
    """Where rows that fail go. `quarantine` goes before `drop`, and the first rule that drops a row
    is its reason; whatever the action, raw = clean + quarantine + dropped."""

    warns: ClassVar[bool] = False
    """Whether rows that fail and stay are counted in `quality` and named in the outcome."""

    limits: ClassVar[bool] = False
    """Whether `ends_run` is asked, for which the rows that fail are counted."""

    @property
    def takes_rows_out(self) -> bool:
        """Whether rows that fail are not accepted."""
        return self.verdict != "clean"

    def ends_run(self, failing: int, rows: int) -> bool:
        """Whether so many rows are too many: nothing is committed then.

        Args:
            failing: Rows that fail the rule, at least 1. A rule about the whole table that does not
                hold counts as 1 row of 1.
            rows: All raw rows.
        """
        del failing, rows
        return False

    @property
    def told(self) -> str:
        """The action in the message that ends a run: "..., and its action is fail"."""
        return self.name
