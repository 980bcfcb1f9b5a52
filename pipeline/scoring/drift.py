"""Drift: what came by in a pass of scoring against the reference of the model, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.config import Drift, Thresholds
from pipeline.errors import DriftError
from pipeline.features.kinds import Id
from pipeline.features.spec import FeatureSpec
from pipeline.stability import psi_of_categories, psi_of_values
from pipeline.training.histograms import Histograms
from pipeline.training.reference import Reference

Kind = Literal["input", "score"]
Verdict = Literal["ok", "warn", "fail", "few rows"]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A share of the rows scored, and of the training rows."""

    scored: float
    training: float

    @property
    def rise(self) -> float:
        """How much more it is than in training."""
        return self.scored - self.training


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One feature, or one column of scores, in one pass."""

    feature: str
    kind: Kind
    rows: int
    psi: float
    missing: Rates | None = None
    """Of rows where the value was missing; None where nothing tells."""
    unknown: Rates | None = None
    """Of rows whose category is out of vocabulary; None for what is no category."""
    verdict: Verdict = "ok"
    reason: str | None = None
    """What the thresholds say against it."""

    def facts(self) -> dict[str, Any]:
        """The columns of the table `drift` that it tells."""
        return {
            "feature": self.feature,
            "kind": self.kind,
            "rows": self.rows,
            "psi": self.psi,
            "missing_rate": self.missing and self.missing.scored,
            "reference_missing_rate": self.missing and self.missing.training,
            "unknown_rate": self.unknown and self.unknown.scored,
            "reference_unknown_rate": self.unknown and self.unknown.training,
            "verdict": self.verdict,
            "reason": self.reason,
        }


def measured(
    spec: FeatureSpec,
    reference: Reference,
    inputs: Histograms,
    scores: Histograms,
    settings: Drift,
) -> list[Measurement]:
    """Compares the rows of a pass with those of a training.

    Args:
        spec: The model's.
        reference: The model's.
        inputs: Of the rows scored.
        scores: Of what the model said of them.
        settings: From which values on it warns or fails.

    Returns:
        All inputs in the order of the model's, then all scores.
    """
    found = [*_inputs(spec, reference.inputs, inputs), *_scores(spec, reference.scores, scores)]
    return [judged(each, settings) for each in found]


def judged(measurement: Measurement, settings: Drift) -> Measurement:
    """The measurement with its verdict; none is given on fewer rows than `minimum_rows`."""
    if measurement.rows < settings.minimum_rows:
        return replace(measurement, verdict="few rows")
    rise = 0.0 if measurement.missing is None else measurement.missing.rise
    against = [
        *_against("psi", f"PSI is {measurement.psi:.3g}", measurement.psi, settings.psi),
        *_against("missing_rate", f"missing rate rose by {rise:.3g}", rise, settings.missing_rate),
    ]
    verdicts = [verdict for verdict, _ in against]
    verdict: Verdict = "fail" if "fail" in verdicts else "warn" if against else "ok"
    reasons = [reason for each, reason in against if each == verdict]
    return replace(measurement, verdict=verdict, reason="; ".join(reasons) or None)


def refuse(model: str, found: Sequence[Measurement]) -> None:
    """Ends the run where a verdict is `fail`.

    Raises:
        DriftError: It is, for the feature that is named, the first of those.
    """
    failed = [each for each in found if each.verdict == "fail"]
    if not failed:
        return
    others = f"; {len(failed) - 1} more fail" if len(failed) > 1 else ""
    raise DriftError(
        f"model {model}, {failed[0].kind} {failed[0].feature}",
        f"{failed[0].reason}, over {failed[0].rows} rows{others}",
        "Nothing was published: see `lakestorm drift`; mend the data, train on it, or raise the "
        "threshold, and run again.",
    )


def _against(
    setting: str, told: str, value: float, thresholds: Thresholds
) -> Iterator[tuple[Literal["warn", "fail"], str]]:
    """The worse of the thresholds that a value has come to, if any."""
    if thresholds.fail is not None and value >= thresholds.fail:
        yield "fail", f"{told}, score.drift.{setting}.fail is {thresholds.fail:g}"
    elif thresholds.warn is not None and value >= thresholds.warn:
        yield "warn", f"{told}, score.drift.{setting}.warn is {thresholds.warn:g}"


def _inputs(spec: FeatureSpec, training: Histograms, scored: Histograms) -> Iterator[Measurement]:
    columns = {column.name: column for column in spec.columns}
    for name, bins in scored.bins.items():
        before, column = training.bins[name], columns[name]
        if isinstance(column, Id):
            rates = [
                None if id_ is None else _rates(training, scored, before.get(id_), bins.get(id_))
                for id_ in (column.missing, column.unknown)
            ]
            yield Measurement(
                feature=name,
                kind="input",
                rows=scored.rows,
                psi=psi_of_categories(before, bins),
                missing=rates[0],
                unknown=rates[1],
            )
            continue
        source = column.source if spec.parts_by_column[name].traceless else ""
        told = source in training.missing and source in scored.missing
        yield Measurement(
            feature=name,
            kind="input",
            rows=scored.rows,
            psi=psi_of_values(before, bins),
            missing=_rates(training, scored, training.missing[source], scored.missing[source])
            if told
            else None,
        )


def _scores(spec: FeatureSpec, training: Histograms, scored: Histograms) -> Iterator[Measurement]:
    counted = spec.label.definition.counted(spec.label.classes, spec.label_columns)
    classes = {name for each in counted if each.classes for name in each.names}
    for name, bins in scored.bins.items():
        index = psi_of_categories if name in classes else psi_of_values
        psi = index(training.bins[name], bins)
        yield Measurement(feature=name, kind="score", rows=scored.rows, psi=psi)


def _rates(
    training: Histograms, scored: Histograms, before: int | None, after: int | None
) -> Rates:
    return Rates(
        training=(before or 0) / training.rows if training.rows else 0.0,
        scored=(after or 0) / scored.rows,
    )
