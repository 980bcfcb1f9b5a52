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
from pipeline.operate.report import charts
from pipeline.operate.report.bins import LARGE, MODERATE
from pipeline.operate.report.figures import count, figure, fixed, moment, percent, signed, size
from pipeline.operate.report.findings import findings
from pipeline.operate.report.inputs import Inputs
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.scores import Scores
from pipeline.operate.report.spread import SHARES
from pipeline.operate.report.wording import metric_name
from pipeline.training.tasks import TASKS, Truth


def render(inputs: Inputs, measured: Measured, mark: str, written_at: datetime) -> str:
    """The page.

    Args:
        inputs: Tables and model.
        measured: Scores, drift, and what charts asked for.
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
        charts=charts.drawn_charts(inputs, measured),
        splits=sorted(scores.splits, key=lambda group: _in_order(group.name)),
        moderate=MODERATE,
        large=LARGE,
        mark=mark,
        written_at=written_at,
        release=version("lakestorm"),
    )


def appearance() -> str:
    """A fingerprint of templates, charts and release: another look is another page."""
    environment = _environment()
    loader = environment.loader
    if loader is None:
        raise TypeError("the environment has a loader")
    sources = {name: loader.get_source(environment, name)[0] for name in loader.list_templates()}
    names = [chart.name for chart in charts.CHARTS]
    return fingerprint(templates=sources, charts=names, release=version("lakestorm"))


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
