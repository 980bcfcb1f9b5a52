"""A small lake that has been all the way, with names that would be markup if not escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import CommitProperties, write_deltalake

from pipeline.clean.quality import Counts, quality_rows
from pipeline.config import Label, Pipeline, Splits
from pipeline.features.catalogue import record
from pipeline.features.kinds.categorical import FittedCategory
from pipeline.features.kinds.cyclic import FittedCyclic
from pipeline.features.kinds.numeric import FittedNumber
from pipeline.features.kinds.scales import Standard
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import CLEAN_VERSION
from pipeline.lake import RUN, Lake, fingerprint
from pipeline.training.loop import EpochRecord
from pipeline.training.metrics import Metrics
from pipeline.training.registry import Registry

HOSTILE = "<script>alert(1)</script>"
WORD = "<img src=x onerror=alert(2)>"
DECISION = '"><svg onload=alert(3)>'
SPLIT_OF = {"2013-01": "train", "2013-02": "train", "2013-03": "validation", "2013-04": "test"}
ROWS = 4000
BINARY = [
    {"auroc": 0.6, "log_loss": 0.6, "accuracy": 0.8},
    {"auroc": 0.7, "log_loss": 0.5, "accuracy": 0.8},
    {"auroc": 0.65, "log_loss": 0.4, "accuracy": 0.8},
]
"""Of three epochs: the second is the best, unless the log-loss decides."""

SPEC = FeatureSpec(
    pipeline="small",
    keys=("day", "id"),
    period_column="period",
    label=Label(name="late", expression="delay > 15"),
    splits=Splits(train="month <= 2", validation="month = 3", test="month = 4"),
    leakage=(),
    derive={},
    parts=(
        FittedNumber(column="n", indicator=True, scale=Standard(mean=0.0, deviation=1.0)),
        FittedCyclic(column="hour", period=24.0),
        FittedCategory(column="c", words=("aa", WORD, "cc")),
    ),
)


@dataclass(frozen=True)
class Small:
    """The lake, and the rows in it for NumPy to check against."""

    lake: Lake
    pipeline: Pipeline
    rows: pd.DataFrame
    """Columns of the features, and `score`."""


def pipeline(lake: Lake) -> Pipeline:
    return Pipeline.model_validate(
        {
            "name": "small",
            "lake": lake.root,
            "source": {"path": "raw", "columns": {"day": {"type": "int"}, "id": {"type": "int"}}},
            "clean": {"period": {"column": "period", "expression": "'2013-01'"}},
            "features": {
                "keys": ["day", "id"],
                "label": {"name": "late", "expression": "day > 1"},
                "splits": {"train": "true", "validation": "true", "test": "true"},
                "leakage": [],
                "numeric": {"id": {}},
            },
        }
    )


def example_rows() -> pd.DataFrame:
    """Rows that drift: numbers, a rare indicator, a category and the score move with the period."""
    random = np.random.default_rng(7)
    month = random.integers(0, 4, ROWS)
    number = random.normal(size=ROWS) + 0.3 * month
    missing = random.random(ROWS) < np.where(month == 3, 0.3, 0.01)
    hour = random.uniform(0, 2 * np.pi, ROWS)
    score = (1 / (1 + np.exp(-(number - 1.5)))).astype(np.float32)
    rows = pd.DataFrame(
        {
            # A key with nulls: they must meet each other.
            "day": pd.Series(month, dtype="Int32").mask(month == 1),
            "id": np.arange(ROWS, dtype=np.int64),
            "late": (random.random(ROWS) < score**1.3).astype(np.float32),
            "num_n": np.where(missing, 0, number).astype(np.float32),
            "missing_n": missing.astype(np.float32),
            "sin_hour": np.sin(hour).astype(np.float32),
            "cos_hour": np.cos(hour).astype(np.float32),
            "cat_c": np.where(
                random.random(ROWS) < 0.1 * month, 3, random.choice([2, 4], ROWS)
            ).astype(np.int32),
            "period": [sorted(SPLIT_OF)[m] for m in month],
            "score": score,
        }
    )
    rows["split"] = rows["period"].map(SPLIT_OF)
    unlabelled = random.random(ROWS) < 0.05
    rows.loc[unlabelled, "late"] = None
    rows.loc[unlabelled, "split"] = "unlabelled"
    return rows


def small_lake(folder: Path) -> Small:
    lake, rows = Lake(folder), example_rows()
    _clean(lake, len(rows))
    record(lake, SPEC, "run", 0)
    features = rows.drop(columns="score")
    write(lake, SPEC.table, features, ["split", "period"], {CLEAN_VERSION: "0"})
    write_predictions(lake, rows, register(lake, BINARY))
    return Small(lake, pipeline(lake), rows)


def write(
    lake: Lake, name: str, rows: pd.DataFrame | pa.Table, by: list[str], notes: dict[str, str]
) -> None:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
    write_deltalake(
        lake.table(name).root,
        table,
        partition_by=by,
        mode="overwrite",
        commit_properties=CommitProperties(custom_metadata=notes),
    )


def write_predictions(
    lake: Lake,
    rows: pd.DataFrame,
    version: int,
    spec: FeatureSpec = SPEC,
    said: tuple[str, ...] = ("score",),
) -> None:
    scored = rows[[*spec.keys, *said, "period"]].assign(
        spec_hash=spec.hash,
        source_version=np.int64(0),
        scored_at=datetime(2013, 5, 1, tzinfo=UTC),
        model_name="small",
        model_version=np.int64(version),
    )
    write(lake, "predictions", scored, ["model_name", "model_version", "period"], {})


def _clean(lake: Lake, rows: int) -> None:
    frame = pd.DataFrame({"id": np.arange(rows), HOSTILE: ["x"] * rows, "photo": [b"x"] * rows})
    write(lake, "clean", frame, [], {RUN: "this"})
    write(lake, "quarantine", pd.DataFrame({"row": ["{}"] * 3}), [], {})
    counts = Counts(
        raw=rows + 5,
        clean=rows,
        quarantined=3,
        dropped=2,
        by_reason={f"rule:{HOSTILE}": 3},
        by_drop={"rule:far": 2},
        warned={"slow": 7},
        failed={},
    )
    columns: dict[str, float | None] = {
        "rows": rows,
        "nulls id": 0,
        "minimum id": 0,
        "maximum id": rows - 1,
        "mean id": (rows - 1) / 2,
        f"nulls {HOSTILE}": 12,
        "nulls photo": 9,
    }
    old = quality_rows(counts, columns, "another", datetime(2013, 4, 1, tzinfo=UTC))
    new = quality_rows(counts, columns, "this", datetime(2013, 5, 1, tzinfo=UTC))
    write(lake, "quality", pa.concat_tables([old, new]), [], {})


def register(lake: Lake, epochs: Sequence[Mapping[str, float]], spec: FeatureSpec = SPEC) -> int:
    """Registers a champion by the registry of training, with the validation metrics of epochs."""
    registry = Registry(lake, "small")
    print_ = fingerprint(epochs=epochs, spec=spec.hash)
    tags = {"features_table": spec.table, "data_version": "0", "spec_hash": spec.hash}
    run = registry.open_run(print_, tags, {"train.epochs": "3", "train.note": HOSTILE})
    measured = [Metrics(values=values, rows=100) for values in epochs]
    history = [
        EpochRecord(epoch=i, train_loss=0.6 - 0.05 * i, validation=metrics)
        for i, metrics in enumerate(measured)
    ]
    registry.log_history(run, history)
    bundle = Path(lake.root) / "bundle"
    bundle.mkdir(exist_ok=True)
    last = measured[-1].to_dict()
    registry.upload(run, bundle, {"validation": last, "test": last})
    version = registry.register(run).version
    registry.decide(version, True, DECISION)
    return version


def bands(values: Any, edges: Any) -> Any:
    """The oracle of `with_bands`."""
    return np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")


def psi(before: Any, after: Any) -> float:
    """The oracle of the index, from values that are bins already."""
    bins = np.unique(np.concatenate([before, after]))
    p, q = (
        np.array([(side == bin_).sum() + 0.5 for bin_ in bins]) / (len(side) + 0.5 * len(bins))
        for side in (before, after)
    )
    return float(np.sum((q - p) * np.log(q / p)))
