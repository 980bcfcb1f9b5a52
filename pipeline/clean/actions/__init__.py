"""Actions of rules: what happens where a rule does not hold; one module an action.

`ACTIONS` lists them, and the rest of the system walks over it:

    YAML  clean.rules.NAME.action, clean.table_rules.NAME.action
      |         pipeline.config      the names that are allowed; `verdict`: which rules may have it
      v
    Action -- verdict ---> pipeline.clean.verdict, table_rules: where rows that fail go
      |  ---- warns -----> pipeline.clean.quality, table_rules: counts, `quality`, the outcome
      |  ---- limits, ends_run --> pipeline.clean.stage, table_rules: whether the run may go on
      v
    pipeline.operate.report: the words for what was warned of

A new one is a module with a subclass of `Action`, and a line in `_OWN`. Settings are checked by
this package before anything runs, so nothing here imports Spark.
"""

from collections.abc import Mapping

from pipeline.clean.actions.action import Action
from pipeline.clean.actions.drop import Drop
from pipeline.clean.actions.fail import Fail
from pipeline.clean.actions.quarantine import Quarantine
from pipeline.clean.actions.warn import Warn

__all__ = ["ACTIONS", "Action"]

_OWN: tuple[Action, ...] = (
    Drop(),
    Quarantine(),
    Warn(),
    Fail(),
)

ACTIONS: Mapping[str, Action] = {action.name: action for action in _OWN}
"""By the name that the YAML has for it."""
