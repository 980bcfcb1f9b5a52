"""What Spark measured for the page, before any of it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.operate.report.classes import Confusion
from pipeline.operate.report.drift import FeatureDrift
from pipeline.operate.report.scores import Scores
from pipeline.operate.report.spread import Spread


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What Spark measured."""

    scores: Scores
    drift: tuple[FeatureDrift, ...]
    """Empty where no feature is a number or a category."""
    classes: Confusion | None = None
    """Where the task has the part `classes`."""
    spread: Spread | None = None
    """Where it has the part `spread`."""
    charts: Mapping[str, Any] = field(default_factory=dict)
    """What charts asked for beside all this, by the chart's name."""
