"""All that was measured, as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.config import METRICS
from pipeline.features.kinds import Id, Number
from pipeline.features.prepared import TEST, TRAIN, VALIDATION
from pipeline.lake import fingerprint
from pipeline.operate.report.bins import LARGE, MODERATE
from pipeline.operate.report.charts import Chart, bar_chart, calibration_chart, line_chart
from pipeline.operate.report.classes import Confusion
from pipeline.operate.report.drift import FeatureDrift
from pipeline.operate.report.figures import count, figure, fixed, moment, percent, signed, size
from pipeline.operate.report.findings import findings
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.model import TrainedModel
from pipeline.operate.report.scores import TENTHS, Scores
from pipeline.operate.report.spread import SHARES, Spread
from pipeline.operate.report.wording import metric_name
from pipeline.training.tasks import TASKS, Truth, Wording

NO_PERIOD = "(none)"


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


def render(inputs: Inputs, measured: Measured, mark: str, written_at: datetime) -> str:
    """The page.

    Args:
        inputs: Tables and model.
        measured: Scores and drift.
        mark: Put into the page, to tell later what it shows.
        written_at: Time of writing; nothing else on the page depends on when it is made.
    """
    template = _environment().get_template("page.html.j2")
    scores, spec, words = measured.scores, inputs.spec, TASKS[inputs.model.task].words
    return template.render(
        inputs=inputs,
        model=inputs.model,
        metrics=METRICS[inputs.model.task],
        words=words,
        truth=words.truth,
        quality=inputs.quality,
        scores=scores,
        distance="" if words.truth is None else _distance(scores, words.truth),
        drift=measured.drift,
        not_compared=tuple(c.name for c in spec.columns if not isinstance(c, Number | Id)),
        classes=measured.classes,
        spread=measured.spread,
        shares=list(SHARES),
        findings=findings(inputs, scores, measured.drift),
        tiles=_tiles(inputs, scores),
        charts={
            **_training_charts(inputs.model),
            **_truth_charts(scores, words),
            **_drift_charts(scores, words),
            **_spread_charts(measured.spread),
        },
        splits=sorted(scores.splits, key=lambda group: _in_order(group.name)),
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
        "metric_name": metric_name,
        "percent": percent,
        "signed": signed,
        "size": size,
        "moment": moment,
    }
    return environment


def _in_order(split: str) -> tuple[int, str]:
    """The splits of a model as they are used, then all others."""
    known = (TRAIN, VALIDATION, TEST)
    return (known.index(split) if split in known else len(known), split)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One figure in large type, and what it is."""

    shown: str
    name: str


def _tiles(inputs: Inputs, scores: Scores) -> list[Tile]:
    model, words, quality = inputs.model, TASKS[inputs.model.task].words, inputs.quality
    test = model.metrics.get(TEST, {})
    named = dict.fromkeys((model.metric, *METRICS[model.task][:2]))
    tiles = [
        Tile(shown=figure(test.get(name)), name=f"{metric_name(name)} on test")
        for name in list(named)[:2]
    ]
    if words.truth is not None:
        told = _distance(scores, words.truth)
        name = "calibration error on test" if words.truth.share else "distance of the means on test"
        tiles.append(Tile(shown=told, name=name))
    psi = f"largest {words.score} PSI after training"
    return [
        *tiles,
        Tile(shown=fixed(scores.psi_after_training), name=psi),
        Tile(shown=count(quality.clean), name=f"clean rows of {count(quality.raw)} raw"),
    ]


def _distance(scores: Scores, truth: Truth) -> str:
    error = scores.calibration_error
    return percent(error) if truth.share else figure(error)


def _training_charts(model: TrainedModel) -> dict[str, Chart]:
    labels = [str(epoch.number) for epoch in model.epochs]
    best = model.best
    marked = None if best is None else (model.epochs.index(best), f"kept: epoch {best.number}")
    twin = TASKS[model.task].words.loss_metric

    def curve(name: str) -> list[float]:
        return [epoch.validation[name] for epoch in model.epochs]

    losses = {"train (dropout on)": [epoch.train_loss for epoch in model.epochs]}
    losses |= {} if twin is None else {"validation": curve(twin)}
    # A metric that is the loss is drawn beside it already.
    others = [name for name in METRICS[model.task] if name != twin]
    shown = others if model.metric == twin else [model.metric]
    names = ", ".join(metric_name(name) for name in shown)
    metrics = {metric_name(name): curve(name) for name in shown}
    loss = "Training loss" if twin is None else _capital(metric_name(twin))
    return {
        "loss": line_chart(f"{loss} by epoch", "epoch", labels, losses, marked),
        "metric": line_chart(f"Validation {names} by epoch", "epoch", labels, metrics, marked),
    }


def _truth_charts(scores: Scores, words: Wording) -> dict[str, Chart]:
    truth = words.truth
    if truth is None:
        return {}
    rows = {f"{k / TENTHS:.1f}": 0.0 for k in range(TENTHS)}
    rows |= {group.name: float(group.labelled) for group in scores.calibration}
    return {
        "calibration": calibration_chart(
            truth.chart, scores.calibration, truth, mean_score=words.mean_score
        ),
        "tenths": bar_chart(truth.rows, truth.bins, rows, unit=truth.unit),
    }


def _spread_charts(spread: Spread | None) -> dict[str, Chart]:
    """Of splits those that a model is judged by; of periods what most rows and what few exceed."""
    if spread is None:
        return {}
    splits = [name for name in (TRAIN, VALIDATION, TEST) if name in spread.splits]
    periods = sorted(spread.periods)
    return {
        "spread": line_chart(
            "Quantiles of the anomaly score by split",
            "share of the rows",
            list(SHARES),
            {name: list(spread.splits[name].values()) for name in splits},
        ),
        "by_period": line_chart(
            "Anomaly score by period",
            "period",
            [name or NO_PERIOD for name in periods],
            {
                share: [spread.periods[name][share] for name in periods]
                for share in ("median", "95%", "99%")
            },
        ),
    }


def _drift_charts(scores: Scores, words: Wording) -> dict[str, Chart]:
    periods = scores.periods
    names = [period.group.name or NO_PERIOD for period in periods]
    charts = {
        "psi": bar_chart(
            f"PSI of the {words.score} by period",
            "period",
            dict(zip(names, (period.psi for period in periods), strict=True)),
            unit="PSI",
            muted=[name for name, p in zip(names, periods, strict=True) if p.in_training],
            levels=((MODERATE, f"moderate {MODERATE}"), (LARGE, f"large {LARGE}")),
        )
    }
    if words.truth is not None:
        sides = {
            words.mean_score: [period.group.predicted for period in periods],
            words.truth.observed: [period.group.observed for period in periods],
        }
        charts["by_period"] = line_chart("Predicted and observed by period", "period", names, sides)
    return charts


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
