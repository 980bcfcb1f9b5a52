"""A small learnable data set, its spec, its lake and its pipeline."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from deltalake import write_deltalake

from pipeline.config import Label, Mlp, Pipeline, Splits
from pipeline.features.kinds import FIRST_ID
from pipeline.features.kinds.categorical import FittedCategory
from pipeline.features.kinds.numeric import FittedNumber
from pipeline.features.kinds.scales import Plain
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake
from pipeline.training.bundle import Facts
from pipeline.training.networks import Architecture, architecture_of
from pipeline.training.splits import shapes_of

SPLITS = {"train": "2013-01", "validation": "2013-02", "test": "2013-03", "rest": "2013-04"}


def spec(
    numeric: int = 3, cardinalities: tuple[int, ...] = (8, 9), keys: tuple[str, ...] = ("id",)
) -> FeatureSpec:
    return FeatureSpec(
        pipeline="small",
        keys=keys,
        period_column="period",
        label=Label(name="late", expression="delay > 15"),
        splits=Splits(train="month = 1", validation="month = 2", test="month = 3"),
        leakage=(),
        derive={},
        parts=(
            *(FittedNumber(column=f"n{i}", indicator=False, scale=Plain()) for i in range(numeric)),
            *(
                FittedCategory(
                    column=f"c{i}", words=tuple(f"w{word}" for word in range(size - FIRST_ID))
                )
                for i, size in enumerate(cardinalities)
            ),
        ),
    )


def architecture(of: FeatureSpec, **settings: Any) -> Architecture:
    """A small multi-layer perceptron for a spec's features."""
    model = Mlp(**{"hidden": (4,), "embedding_dimension": 2, **settings})
    return architecture_of(model, shapes_of(of), 1)


def facts(of: FeatureSpec, version: int, **settings: Any) -> Facts:
    """What is known of such a network, trained on a version of the features."""
    return Facts(
        architecture=architecture(of, **settings),
        task="binary",
        loss="bce",
        classes=(),
        labels=of.label_columns,
        spec_hash=of.hash,
        features_table=of.table,
        features_version=version,
    )


def inputs(of: FeatureSpec, table: pa.Table) -> dict[str, torch.Tensor]:
    """What a network is given for some rows, made without the stream."""

    def side_by_side(names: tuple[str, ...]) -> torch.Tensor:
        return torch.stack([torch.tensor(table[name].to_numpy()) for name in names], dim=1)

    columns = {"numeric": of.numeric_columns, "categorical": of.categorical_columns}
    return {name: side_by_side(names) for name, names in columns.items() if names}


def rows(first_id: int, count: int, of: FeatureSpec, seed: int = 0, noise: float = 0.5) -> pa.Table:
    """Rows whose label follows from `n0` and `c0`, but for noise."""
    # The first draws are the same for every spec, so that an id always has the same label.
    generator = np.random.default_rng([seed, first_id])
    signal = generator.normal(size=count).astype(np.float32)
    category = generator.integers(0, 6, count).astype(np.int32)
    late = signal + 0.5 * category + noise * generator.normal(size=count) > 1.5
    columns: dict[str, Any] = {"id": np.arange(first_id, first_id + count, dtype=np.int64)}
    for position, name in enumerate(of.numeric_columns):
        other = generator.normal(size=count).astype(np.float32)
        columns[name] = signal if position == 0 else other
    for position, name in enumerate(of.categorical_columns):
        other = generator.integers(0, of.cardinalities[position], count).astype(np.int32)
        columns[name] = category if position == 0 else other
    columns["late"] = late.astype(np.float32)
    for name in of.weight_columns:
        columns[name] = generator.exponential(size=count).astype(np.float32)
    return pa.table(columns)


def write_features(
    lake: Lake,
    of: FeatureSpec,
    counts: dict[str, int],
    first_id: int = 0,
    mode: Literal["overwrite", "append"] = "overwrite",
) -> None:
    """Writes the table of a spec, with consecutive ids over the splits."""
    pieces = []
    for split, count in counts.items():
        piece = rows(first_id, count, of)
        first_id += count
        for name, value in (("split", split), ("period", SPLITS[split])):
            piece = piece.append_column(name, pa.array([value] * count, pa.string()))
        pieces.append(piece)
    write_deltalake(
        f"{lake.root}/features/{of.hash}",
        pa.concat_tables(pieces),
        partition_by=["split", "period"],
        mode=mode,
    )


def pipeline(lake: Lake, **train: Any) -> Pipeline:
    settings = {
        "model": {"hidden": [8], "embedding_dimension": 3, "dropout": 0.1},
        "epochs": 3,
        "rows_per_batch": 64,
        "learning_rate": 0.01,
        "checkpoint_every_steps": 3,
        "shuffle_window_rows": 256,
        "device": "cpu",
        "max_restarts": 0,  # in this process: starting another takes seconds
    }
    return Pipeline.model_validate(
        {
            "name": "small",
            "lake": lake.root,
            "seed": 5,
            "source": {"path": "raw", "columns": {"id": {"type": "bigint", "required": True}}},
            "clean": {"period": {"column": "period", "expression": "'2013-01'"}},
            "features": {
                "keys": ["id"],
                "label": {"name": "late", "expression": "id > 0"},
                "splits": {"train": "true", "validation": "true", "test": "true"},
                "leakage": [],
                "numeric": {"id": {}},
            },
            "train": {**settings, **train},
        }
    )
