"""What deserves a look, in sentences; thresholds are in `bins.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.clean.actions import ACTIONS
from pipeline.operate.report.bins import LARGE, MODERATE
from pipeline.operate.report.drift import FeatureDrift
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.scores import Scores
from pipeline.training.tasks import TASKS

NAMES_SHOWN = 6
LARGE_OVERLAP = 0.1
"""Of a split's rows; from here on its metrics say little about entities that come new."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence, and how much it matters."""

    level: Literal["serious", "note"]
    text: str


def findings(inputs: Inputs, scores: Scores, drift: Sequence[FeatureDrift]) -> tuple[Finding, ...]:
    """What a reader should not miss, the serious first."""
    found = [
        *_stale(inputs),
        *_rows(inputs),
        *_overlaps(inputs),
        *_scores(inputs, scores),
        *_drift(drift),
    ]
    return tuple(sorted(found, key=lambda finding: finding.level != "serious"))


def _stale(inputs: Inputs) -> list[Finding]:
    found = []
    features, clean = inputs.table(inputs.features.name), inputs.table("clean")
    noted = inputs.clean_version_of_features
    if features.newest > features.version or (noted is not None and clean.version > noted):
        text = (
            f"The predictions are older than the data: they were made from version "
            f"{features.version} of the features, and newer rows have come. Run lakestorm score."
        )
        found.append(Finding(level="serious", text=text))
    return found


def _rows(inputs: Inputs) -> list[Finding]:
    quality, found = inputs.quality, []
    if not quality.accounted:
        text = "Raw rows are not clean + quarantine + dropped: run lakestorm clean again."
        found.append(Finding(level="serious", text=text))
    warned = sum(reason.rows for reason in quality.reasons if reason.fate == "warned")
    if warned:
        warning = " or ".join(name for name, action in ACTIONS.items() if action.warns)
        text = f"{warned:,} clean rows fail a rule whose action is {warning}."
        found.append(Finding(level="note", text=text))
    if quality.broken:
        rules = "1 rule" if len(quality.broken) == 1 else f"{len(quality.broken)} rules"
        text = f"{rules} about the table did not hold: {_listed(quality.broken)}."
        found.append(Finding(level="note", text=text))
    return found


def _overlaps(inputs: Inputs) -> list[Finding]:
    found: list[Finding] = []
    for overlap in inputs.overlaps:
        if overlap.entities:
            level: Literal["serious", "note"] = (
                "serious" if overlap.share >= LARGE_OVERLAP else "note"
            )
            text = f"{overlap.sentence}: a network may know them by heart. See docs/splits.md."
            found.append(Finding(level=level, text=text))
    return found


def _scores(inputs: Inputs, scores: Scores) -> list[Finding]:
    found: list[Finding] = []
    told = TASKS[inputs.model.task].words.scores
    for level, low, high in _LEVELS:
        names = [p.group.name for p in scores.after_training if low <= p.psi < high]
        if names:
            text = f"The {told} of {_listed(names)} differ from those of the training periods."
            found.append(Finding(level=level, text=f"{text} {_between(low, high)}"))
    return found


def _drift(drift: Sequence[FeatureDrift]) -> list[Finding]:
    found: list[Finding] = []
    for level, low, high in _LEVELS:
        names = [feature.name for feature in drift if low <= feature.psi < high]
        if names:
            count = "1 feature has" if len(names) == 1 else f"{len(names)} features have"
            text = f"{count} moved from train to test: {_listed(names)}."
            found.append(Finding(level=level, text=f"{text} {_between(low, high)}"))
    return found


_LEVELS: tuple[tuple[Literal["serious", "note"], float, float], ...] = (
    ("serious", LARGE, float("inf")),
    ("note", MODERATE, LARGE),
)


def _between(low: float, high: float) -> str:
    return f"(PSI {low} to {high})" if high < float("inf") else f"(PSI {low} or more)"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    rest = len(names) - NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
