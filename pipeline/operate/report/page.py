"""All that was measured, as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.features.transform import TEST, TRAIN, VALIDATION
from pipeline.lake import fingerprint
from pipeline.operate.report.bins import LARGE, MODERATE
from pipeline.operate.report.charts import Chart, bar_chart, calibration_chart, line_chart
from pipeline.operate.report.drift import FeatureDrift
from pipeline.operate.report.findings import findings
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.model import TrainedModel
from pipeline.operate.report.scores import TENTHS, Group, Scores

UNKNOWN = "–"  # noqa: RUF001  an en dash is what a table shows for no value


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What Spark measured."""

    scores: Scores
    drift: tuple[FeatureDrift, ...]


def render(inputs: Inputs, measured: Measured, mark: str, written_at: datetime) -> str:
    """The page.

    Args:
        inputs: Tables and model.
        measured: Scores and drift.
        mark: Put into the page, to tell later what it shows.
        written_at: Time of writing; nothing else on the page depends on when it is made.
    """
    template = _environment().get_template("page.html.j2")
    return template.render(
        inputs=inputs,
        model=inputs.model,
        quality=inputs.quality,
        scores=measured.scores,
        drift=measured.drift,
        findings=findings(inputs, measured.scores, measured.drift),
        charts={
            **_training_charts(inputs.model),
            **_calibration_charts(measured.scores),
            **_drift_charts(measured.scores),
        },
        splits=sorted(measured.scores.splits, key=_in_order),
        moderate=MODERATE,
        large=LARGE,
        mark=mark,
        written_at=written_at,
        release=version("lakestorm"),
    )


def appearance() -> str:
    """A fingerprint of the templates and of the release: another look is another page."""
    environment = _environment()
    loader = environment.loader
    if loader is None:
        raise TypeError("the environment has a loader")
    sources = {name: loader.get_source(environment, name)[0] for name in loader.list_templates()}
    return fingerprint(templates=sources, release=version("lakestorm"))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.operate.report"),
        # Names of columns, rules and words come from data, and must not become markup.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "figure": figure,
        "fixed": fixed,
        "percent": percent,
        "size": size,
        "moment": moment,
    }
    return environment


def count(value: float) -> str:
    """A number of rows."""
    return f"{value:,.0f}"


def figure(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if decimals > 8:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.{decimals}f}"


def fixed(value: float | None, decimals: int = 3) -> str:
    """A number with so many decimals; a dash for none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"  # no -0.00


def percent(share: float, decimals: int = 1) -> str:
    """A share in percent; a dash for none, and never 0 for a little."""
    if not math.isfinite(share):
        return UNKNOWN
    told = f"{share:.{decimals}%}"
    least = 10.0**-decimals
    return f"<{least:g}%" if 0 < share * 100 < least / 2 else told


def size(bytes_: int) -> str:
    """Bytes in the unit that suits them."""
    value = float(bytes_)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def moment(time: datetime | None) -> str:
    """A time in UTC to the minute."""
    return UNKNOWN if time is None else time.strftime("%Y-%m-%d %H:%M")


def _in_order(split: Group) -> tuple[int, str]:
    """The splits of a model as they are used, then all others."""
    known = (TRAIN, VALIDATION, TEST)
    return (known.index(split.name) if split.name in known else len(known), split.name)


def _training_charts(model: TrainedModel) -> dict[str, Chart]:
    labels = [str(epoch.number) for epoch in model.epochs]
    best = model.best
    marked = None if best is None else (model.epochs.index(best), f"kept: epoch {best.number}")
    return {
        "loss": line_chart(
            "Log-loss by epoch",
            "epoch",
            labels,
            {
                "train (dropout on)": [epoch.train_loss for epoch in model.epochs],
                "validation": [epoch.validation_log_loss for epoch in model.epochs],
            },
            marked,
        ),
        "auroc": line_chart(
            "Validation AUROC by epoch",
            "epoch",
            labels,
            {"validation": [epoch.validation_auroc for epoch in model.epochs]},
            marked,
        ),
    }


def _calibration_charts(scores: Scores) -> dict[str, Chart]:
    rows = {f"{k / TENTHS:.1f}": 0.0 for k in range(TENTHS)}
    rows |= {group.name: float(group.labelled) for group in scores.calibration}
    return {
        "calibration": calibration_chart("Observed rate by predicted score", scores.calibration),
        "tenths": bar_chart("Test rows by score", "score from", rows, unit="rows"),
    }


def _drift_charts(scores: Scores) -> dict[str, Chart]:
    periods = scores.periods
    names = [period.group.name or "(none)" for period in periods]
    return {
        "psi": bar_chart(
            "PSI of the score by period",
            "period",
            dict(zip(names, (period.psi for period in periods), strict=True)),
            unit="PSI",
            muted=[name for name, p in zip(names, periods, strict=True) if p.in_training],
            levels=((MODERATE, f"moderate {MODERATE}"), (LARGE, f"large {LARGE}")),
        ),
        "rates": line_chart(
            "Predicted and observed by period",
            "period",
            names,
            _rates([(p.group.predicted, p.group.observed) for p in periods]),
        ),
    }


def _rates(pairs: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    return {
        "mean score": [predicted for predicted, _ in pairs],
        "observed rate": [observed for _, observed in pairs],
    }
