"""The stage `report`: quality, training, calibration and drift, as one HTML page in the lake."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipeline.config import Pipeline
from pipeline.errors import LakeError, LakeNotWritableError
from pipeline.features.prepared import TRAIN
from pipeline.lake import Lake, fingerprint
from pipeline.operate.report.charts import measured_charts
from pipeline.operate.report.classes import measure_classes
from pipeline.operate.report.drift import measure_drift
from pipeline.operate.report.inputs import Inputs, read_inputs
from pipeline.operate.report.measured import Measured
from pipeline.operate.report.page import appearance, render
from pipeline.operate.report.scores import measure_scores
from pipeline.operate.report.spread import measure_spread
from pipeline.outcome import Outcome

FOLDER = "reports"
ALGORITHM = 3
"""To be raised when the same inputs would give other figures, or a chart that is changed.

A chart that is new or gone makes another page by itself.
"""

_PARTS: Mapping[str, Callable[..., Any]] = {"classes": measure_classes, "spread": measure_spread}
"""What a task may ask for by `report_parts`: a field of `Measured` to what measures it."""


def report(spark: SparkSession, pipeline: Pipeline, lake: Lake) -> Outcome:
    """Writes `reports/<pipeline>.html`, unless it shows these tables and this model already.

    Args:
        spark: The session that aggregates predictions and features.
        pipeline: Names the model, as for `score`.
        lake: Holds the tables and gets the page.

    Returns:
        The page, and the predictions that it is about.

    Raises:
        LakestormError: A table or the model is missing, or the lake cannot be written; the page is
            as before then.
    """
    started = time.monotonic()
    inputs = read_inputs(pipeline, lake)
    lake.require_writable()
    place = f"{FOLDER}/{pipeline.name}.html"
    mark = fingerprint(algorithm=ALGORITHM, inputs=inputs.fingerprint, looks=appearance())
    unchanged = _mark_line(mark) in _text(lake, place)
    if not unchanged:
        _write(
            lake, place, render(inputs, _measured(spark, inputs, pipeline), mark, datetime.now(UTC))
        )
    model = inputs.model
    return Outcome(
        stage="report",
        table=place,
        version=inputs.table("predictions").version,
        rows_in=inputs.predictions.rows,
        rows_out=inputs.predictions.rows,
        seconds=time.monotonic() - started,
        unchanged=unchanged,
        note=f"{model.name}@{model.version}: open {lake.root}/{place}",
    )


def _measured(spark: SparkSession, inputs: Inputs, pipeline: Pipeline) -> Measured:
    spec, features = inputs.spec, inputs.features
    train_periods = features.select(split={TRAIN}).partitions(spec.period_column)
    tables = (spark, inputs.predictions, features, spec)
    try:
        return Measured(
            scores=measure_scores(*tables, train_periods),
            drift=measure_drift(spark, features, spec, pipeline.is_sensitive_feature),
            charts=measured_charts(*tables),
            **{name: _PARTS[name](*tables) for name in spec.label.definition.report_parts},
        )
    except (Py4JJavaError, PySparkException) as error:
        raise LakeError(
            f"tables predictions and {inputs.features.name}",
            f"could not be read: {str(error).strip().splitlines()[0]}",
            "The page is as before; see that no file of these versions was removed.",
        ) from error


def _mark_line(mark: str) -> str:
    return f'<meta name="lakestorm-report" content="{mark}">'


def _text(lake: Lake, place: str) -> str:
    try:
        with lake.folder.open(place) as page:
            return str(page.read().decode())
    except (OSError, UnicodeDecodeError):
        return ""  # none, or not ours: written anew


def _write(lake: Lake, place: str, text: str) -> None:
    try:
        lake.folder.put(place, text.encode())
    except OSError as error:
        raise LakeNotWritableError(
            f"file {lake.root}/{place}",
            f"cannot be written: {error.strerror or error}",
            "Make its folder writable, or set `lake` to another one.",
        ) from error
