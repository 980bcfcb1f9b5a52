"""Claim: on tables, lakestorm's networks come within 0.01 AUROC of gradient-boosted trees.

scikit-learn's HistGradientBoostingClassifier learns from the very rows and features that a
pipeline's champion was trained on, and both are measured on the same test rows: the trees by what
they predict here, the network by its stored predictions. The trees have scikit-learn's settings,
with nothing tuned; only how many there are is found by early stopping on the split validation,
as the network's epochs are, so the limit of 100 is raised. Ids of up to 255 values are categorical,
longer ones numbers. Of a sequence trees are given the length, the mean and the last value; of a
vector each value; images are left out.

usage: python benchmarks/trees.py PIPELINE.yaml [--lake LAKE] [--set A.B=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `pipeline`

from pipeline.config import load_pipeline
from pipeline.features.kinds import FeatureColumn, Id, Number, Sequence
from pipeline.features.kinds.columns import Vector
from pipeline.features.prepared import SPLIT, TEST, TRAIN, VALIDATION
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot
from pipeline.operate.report.model import TrainedModel, trained_model
from pipeline.scoring.reached import PREDICTIONS

MOST_CATEGORIES = 255
"""What HistGradientBoosting can hold of one feature."""
MOST_TREES = 1_000
SEED = 0

Array = npt.NDArray[np.floating]


def main() -> None:
    """Fits the trees and prints a table and one JSON line."""
    arguments = _arguments()
    chosen = [f"lake={arguments.lake}"] if arguments.lake else []
    pipeline = load_pipeline(arguments.pipeline, [*chosen, *arguments.overrides])
    lake = Lake.of(pipeline)
    model, spec = trained_model(lake, pipeline)
    if spec.label.task != "binary":
        sys.exit(f"{pipeline.name} learns the task {spec.label.task}; give one that is binary")
    features = lake.table(model.features_table).snapshot(model.features_version)
    rows = {split: _rows(features, spec, split) for split in (TRAIN, VALIDATION, TEST)}
    trees, seconds = _fitted(rows, spec)
    by_trees = trees.predict_proba(_matrix(rows[TEST], spec))[:, 1]
    observed, by_network = _network(lake, model, spec, rows[TEST])
    measured = {
        "trees": _measured(_label(rows[TEST], spec), by_trees),
        "network": _measured(observed, by_network),
    }
    family = pipeline.train.model.family
    print(f"{pipeline.name}, {family}: {', '.join(f'{r.height:,} {n}' for n, r in rows.items())}")
    print(f"{'':8}  {'auroc':>7}  {'log_loss':>8}  {'accuracy':>8}")
    for name, each in measured.items():
        print(f"{name:8}  {each['auroc']:7.4f}  {each['log_loss']:8.4f}  {each['accuracy']:8.4f}")
    found = {
        "benchmark": "trees",
        "model": f"{model.name}@{model.version}",
        "family": family,
        "rows": {split: each.height for split, each in rows.items()},
        "share_of_ones": round(float(observed.mean()), 4),
        **measured,
        "auroc_network_minus_trees": round(
            measured["network"]["auroc"] - measured["trees"]["auroc"], 4
        ),
        "trees_fitted": int(trees.n_iter_),
        "trees_seconds": round(seconds, 1),
    }
    print(json.dumps(found))


def _rows(features: Snapshot, spec: FeatureSpec, split: str) -> pl.DataFrame:
    columns = [*spec.keys, *spec.label_columns, *spec.feature_columns]
    found = pl.DataFrame(features.select(**{SPLIT: {split}}).arrow(columns))
    # Rows are drawn for nothing, but bins are found on a sample: in one order wherever files lie.
    return found.sort(spec.keys)


def _fitted(
    rows: dict[str, pl.DataFrame], spec: FeatureSpec
) -> tuple[HistGradientBoostingClassifier, float]:
    categorical = [
        isinstance(column, Id) and column.size <= MOST_CATEGORIES
        for column in spec.columns
        for _ in _inputs(rows[TRAIN].head(1), column)
    ]
    trees = HistGradientBoostingClassifier(
        max_iter=MOST_TREES,
        early_stopping=True,
        categorical_features=categorical,
        random_state=SEED,
    )
    began = time.perf_counter()
    trees.fit(
        _matrix(rows[TRAIN], spec),
        _label(rows[TRAIN], spec),
        X_val=_matrix(rows[VALIDATION], spec),
        y_val=_label(rows[VALIDATION], spec),
    )
    return trees, time.perf_counter() - began


def _label(rows: pl.DataFrame, spec: FeatureSpec) -> npt.NDArray[np.int64]:
    return rows[spec.label_column].cast(pl.Int64).to_numpy()


def _matrix(rows: pl.DataFrame, spec: FeatureSpec) -> Array:
    """What trees are given of each row, [rows, inputs]; NaN where a sequence is empty."""
    inputs = [values for column in spec.columns for values in _inputs(rows, column)]
    return np.column_stack([values.cast(pl.Float64).fill_null(np.nan) for values in inputs])


def _inputs(rows: pl.DataFrame, column: FeatureColumn) -> Iterator[pl.Series]:
    values = rows[column.name]
    if isinstance(column, Number | Id):
        yield values
    elif isinstance(column, Sequence):
        yield from (values.list.len(), values.list.mean(), values.list.last())
    elif isinstance(column, Vector):
        yield from (values.list.get(place) for place in range(column.width))


def _network(
    lake: Lake, model: TrainedModel, spec: FeatureSpec, test: pl.DataFrame
) -> tuple[npt.NDArray[np.int64], Array]:
    """The labels of the test rows and the network's stored scores, in one order."""
    predictions = lake.table(PREDICTIONS).snapshot()
    own = predictions.select(model_name={model.name}, model_version={str(model.version)})
    stored = pl.DataFrame(own.arrow([*spec.keys, "score"]))
    kept = [*spec.keys, spec.label_column]
    both = test.select(kept).join(stored, on=spec.keys, how="inner", nulls_equal=True)
    if both.height != test.height:
        sys.exit(f"{both.height} of {test.height} test rows are scored; run `lakestorm score`")
    return _label(both, spec), both["score"].cast(pl.Float64).to_numpy()


def _measured(observed: npt.NDArray[np.int64], score: Array) -> dict[str, float]:
    return {
        "auroc": round(float(roc_auc_score(observed, score)), 4),
        "log_loss": round(float(log_loss(observed, score)), 4),
        "accuracy": round(float(accuracy_score(observed, score > 0.5)), 4),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pipeline", help="the YAML")
    parser.add_argument("--lake", help="that of the YAML by default")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
