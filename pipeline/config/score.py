"""Which models score, and what drift they bear."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.settings import Positive, Settings


class Thresholds(Settings):
    """From which value on a measure of drift warns or fails; null for never."""

    warn: float | None = Field(default=None, gt=0)
    fail: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _warns_before_it_fails(self) -> Self:
        if self.warn is not None and self.fail is not None and self.fail < self.warn:
            raise ValueError(f"fail {self.fail} is below warn {self.warn}")
        return self


class PsiThresholds(Thresholds):
    """Of the population stability index."""

    warn: float | None = Field(default=0.25, gt=0)


class MissingThresholds(Thresholds):
    """Of the share of rows where a value is missing, less that share in the training data."""

    warn: float | None = Field(default=0.1, gt=0)


class Drift(Settings):
    """What is done where rows that are scored are unlike those of the training, see docs/drift.md.

    `warn`: a line in the log and in the outcome. `fail`: an error before anything is published.
    """

    psi: PsiThresholds = PsiThresholds()
    missing_rate: MissingThresholds = MissingThresholds()
    minimum_rows: Positive = 1000
    """Of fewer rows nothing is said: chance alone would make them unlike."""


class Score(Settings):
    """Stage 4: `features` to `predictions`."""

    model: Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)] = "champion"
    """A version or an alias of the pipeline's registered model, or `NAME@VERSION`."""
    shadows: tuple[Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)], ...] = ()
    """Further models, named alike, whose scores are written beside and decide nothing."""
    drift: Drift = Drift()
