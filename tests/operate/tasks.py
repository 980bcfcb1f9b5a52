"""One example for each task but the binary one, and what NumPy says of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Label, Pipeline
from pipeline.features.catalogue import record
from pipeline.features.kinds.images import FittedImage
from pipeline.features.kinds.tokens import FittedTokens
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import CLEAN_VERSION
from pipeline.lake import Lake
from tests.operate.examples import (
    HOSTILE,
    SPEC,
    SPLIT_OF,
    Small,
    pipeline,
    register,
    write,
    write_predictions,
)

ROWS = 900
CLASSES = ("no", "<b>perhaps", HOSTILE)
BARE = SPEC.model_copy(update={"parts": ()})


@dataclass(frozen=True)
class Example:
    """Rows of a task."""

    spec: FeatureSpec
    rows: pd.DataFrame
    """Keys, features, labels, split, period and what is predicted."""
    said: tuple[str, ...]
    """Columns of what is predicted."""
    pairs: pd.DataFrame
    """The oracle: `row`, `score`, `predicted`, `observed` (NaN where unknown), `loss`."""
    epochs: list[dict[str, float]]
    """Validation metrics; the second epoch is the best."""


def _frame(random: np.random.Generator) -> pd.DataFrame:
    """Keys, features, periods and splits; 5 % of the rows without label."""
    month = random.integers(0, 4, ROWS)
    rows = pd.DataFrame(
        {
            "day": pd.Series(month, dtype="Int32"),
            "id": np.arange(ROWS, dtype=np.int64),
            "num_n": random.normal(size=ROWS).astype(np.float32),
            "missing_n": np.zeros(ROWS, np.float32),
            "sin_hour": np.zeros(ROWS, np.float32),
            "cos_hour": np.ones(ROWS, np.float32),
            "cat_c": random.integers(0, 5, ROWS).astype(np.int32),
            "period": [sorted(SPLIT_OF)[m] for m in month],
        }
    )
    rows["split"] = rows["period"].map(SPLIT_OF)
    rows.loc[random.random(ROWS) < 0.05, "split"] = "unlabelled"
    return rows


def multiclass() -> Example:
    random = np.random.default_rng(1)
    rows = _frame(random)
    logits = random.normal(size=(ROWS, 3)) * (1 + 0.5 * rows["day"].to_numpy(float))[:, None]
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    truth = (p.cumsum(1) < random.random((ROWS, 1)) * 0.999).sum(1)
    known = (rows["split"] != "unlabelled").to_numpy()
    rows["late"] = pd.Series(truth, dtype="Int32").where(known)
    rows["score"], rows["class"] = p.max(1), [CLASSES[i] for i in p.argmax(1)]
    rows["probabilities"] = list(p)
    right = np.where(known, p.argmax(1) == truth, np.nan)
    loss = np.where(known, -np.log(p[np.arange(ROWS), truth].astype(float)), np.nan)
    label = Label(task="multiclass", name="late", expression="delay", classes=CLASSES)
    return Example(
        spec=SPEC.model_copy(update={"label": label}),
        rows=rows,
        said=("score", "class", "probabilities"),
        pairs=_pairs(np.arange(ROWS), p.max(1), p.max(1), right, loss),
        epochs=[{"accuracy": a, "log_loss": 0.5, "f1": 0.4} for a in (0.5, 0.7, 0.7)],
    )


def regression() -> Example:
    random = np.random.default_rng(2)
    rows = _frame(random)
    score = (5 * random.normal(size=ROWS) - 3 * rows["day"].to_numpy(float)).astype(np.float32)
    label = (score + 0.5 + random.normal(size=ROWS)).astype(np.float32)
    observed = np.where(rows["split"] != "unlabelled", label.astype(float), np.nan)
    rows["score"], rows["late"] = score, observed.astype(np.float32)
    how = Label(task="regression", name="late", expression="delay")
    return Example(
        spec=SPEC.model_copy(update={"label": how}),
        rows=rows,
        said=("score",),
        pairs=_pairs(np.arange(ROWS), score, score, observed, (observed - score) ** 2),
        epochs=[{"rmse": r, "mae": 0.5, "r2": np.nan} for r in (0.9, 0.5, 0.7)],
    )


def multilabel() -> Example:
    random = np.random.default_rng(3)
    rows = _frame(random).drop(columns=["num_n", "missing_n", "sin_hour", "cos_hour", "cat_c"])
    shift = 0.15 * rows["day"].to_numpy(float)[:, None]
    p = (random.random((ROWS, 3)) * 0.5 + shift).clip(0, 0.999).astype(np.float32)
    label = (random.random((ROWS, 3)) < p).astype(float)
    label[rows["split"] == "unlabelled"] = np.nan
    for i, name in enumerate("abc"):
        rows[f"late_{name}"] = label[:, i].astype(np.float32)
    rows["tokens_text"] = [[1, 2, 3][: i % 4] for i in range(ROWS)]
    rows["probabilities"] = list(p)
    exact = p.astype(float)
    loss = -np.log(np.where(label == 1, exact, 1 - exact).clip(1e-7, 1 - 1e-7))
    loss[np.isnan(label)] = np.nan
    how = Label(task="multilabel", name="late", expressions=dict.fromkeys("abc", "true"))
    text = FittedTokens(column="text", separator=" ", buckets=9, longest=4)
    return Example(
        spec=BARE.model_copy(update={"label": how, "parts": (*BARE.parts, text)}),
        rows=rows,
        said=("probabilities",),
        pairs=_pairs(
            np.repeat(np.arange(ROWS), 3),
            np.repeat(exact.mean(1), 3),
            exact.ravel(),
            label.ravel(),
            loss.ravel(),
        ),
        epochs=[{"auroc": a, "log_loss": 0.5, "accuracy": 0.4} for a in (0.5, 0.7, 0.6)],
    )


def reconstruction() -> Example:
    random = np.random.default_rng(4)
    rows = _frame(random)[["id", "period", "split"]].replace("unlabelled", "rest")
    rows["digest"] = [int(i).to_bytes(16, "little") for i in rows["id"]]
    rows["image_pixels"] = [bytes([i % 256] * 4) for i in range(ROWS)]
    score = random.gamma(50, 2, ROWS) + 20 * (rows["period"] == "2013-04")
    rows["score"] = score.astype(np.float32)
    rows["latent"] = list(random.normal(size=(ROWS, 5)).astype(np.float32))
    unknown = np.full(ROWS, np.nan)
    picture = FittedImage(column="pixels", shape=(2, 2), encoding="raw")
    update = {
        "label": Label(task="reconstruction"),
        "parts": (*BARE.parts, picture),
        "keys": ("digest",),  # binary
    }
    return Example(
        spec=BARE.model_copy(update=update),
        rows=rows.drop(columns="id"),
        said=("score", "latent"),
        pairs=_pairs(np.arange(ROWS), rows["score"], rows["score"], unknown, unknown),
        epochs=[{"loss": x, "reconstruction": x - 5, "kl": 5.0} for x in (90.0, 70.0, 80.0)],
    )


def _pairs(row: Any, score: Any, predicted: Any, observed: Any, loss: Any) -> pd.DataFrame:
    values = {"score": score, "predicted": predicted, "observed": observed, "loss": loss}
    exact = {name: np.asarray(column, float) for name, column in values.items()}
    return pd.DataFrame({"row": row, **exact})


EXAMPLES: dict[str, Callable[[], Example]] = {
    "multiclass": multiclass,
    "regression": regression,
    "multilabel": multilabel,
    "reconstruction": reconstruction,
}


def task_lake(small: Small, example: Example, folder: Path) -> tuple[Lake, Pipeline]:
    """A copy of the small lake whose champion is of another task, with its predictions."""
    away = shutil.ignore_patterns("reports", "predictions", "features")
    shutil.copytree(small.lake.root, folder, ignore=away)
    lake, spec = Lake(folder), example.spec
    record(lake, spec, "another run", 0)
    features = example.rows.drop(columns=list(example.said))
    write(lake, spec.table, features, ["split", "period"], {CLEAN_VERSION: "0"})
    version = register(lake, example.epochs, spec)
    write_predictions(lake, example.rows, version, spec, example.said)
    return lake, pipeline(lake)
