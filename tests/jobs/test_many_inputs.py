"""Two images, two texts, a series and numbers, through all stages into one network."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from pyspark.sql import SparkSession

from pipeline.features.catalogue import newest_spec
from pipeline.lake import Lake
from pipeline.operate.walk import walk
from pipeline.training.registry import load_registered
from pipeline.training.splits import evaluation_stream, shapes_of
from tests.clean import examples
from tests.jobs.reads_all import IMAGES, TEXTS

pytestmark = pytest.mark.long

ROWS, BUCKETS = 480, 50
NUMBERS = ("a", "b")
COLUMNS = {
    "id": "bigint", "day": "int", "a": "double", "b": "double",
    "front": "binary", "back": "binary", "subject": "string", "body": "string",
    "readings": "array<double>",
}  # fmt: skip
SCHEMA = pa.schema(
    [
        *(("id", pa.int64()), ("day", pa.int64()), ("a", pa.float64()), ("b", pa.float64())),
        *(("front", pa.binary()), ("back", pa.binary())),
        *(("subject", pa.string()), ("body", pa.string()), ("readings", pa.list_(pa.float64()))),
    ]
)
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")


def rows() -> list[dict[str, Any]]:
    """The label is whether a sum over all inputs is above 0."""
    random = np.random.default_rng(3)
    found = []
    for number in range(ROWS):
        size = int(random.integers(0, 6))
        found.append(
            {
                "id": number,
                "day": number % 6,
                "a": random.normal(),
                "b": random.normal(),
                "front": bytes(random.integers(0, 256, 9, np.uint8)),
                "back": bytes([int(random.integers(0, 256))] * 8),
                "subject": " ".join(random.choice(WORDS, int(random.integers(0, 3)))),
                "body": None if number % 11 == 0 else " ".join(random.choice(WORDS, 5)),
                "readings": None if number % 13 == 0 else random.normal(size=size).tolist(),
            }
        )
    return found


def described() -> dict[str, Any]:
    signs = {
        "a": "a",
        "b": "-b",
        "back": "(conv(hex(substring(back, 1, 1)), 16, 10) - 128) / 64",
        "body": "(length(coalesce(body, '')) - length(replace(coalesce(body, ''), 'beta', '')))/4",
        "subject": "IF(subject LIKE '%gamma%', 1, 0)",
        "readings": "coalesce(aggregate(readings, 0D, (x, y) -> x + y) / size(readings), 0)",
    }
    return {
        "source.columns": {name: {"type": kind} for name, kind in COLUMNS.items()},
        "clean.period": {"column": "period", "expression": "'whole'"},
        "features": {
            "keys": ["id"],
            "label": {"name": "above", "expression": " + ".join(signs.values()) + " > 1"},
            "splits": {"train": "day < 4", "validation": "day = 4", "test": "day = 5"},
            "leakage": [],
            "numeric": {name: {"scale": "none"} for name in NUMBERS},
            "images": {"front": {"shape": [3, 3]}, "back": {"shape": [2, 4]}},
            "tokens": {name: {"buckets": BUCKETS} for name in ("subject", "body")},
            "series": {"readings": {"longest": 4}},
            "rows_per_row_group": 16,
        },
        "train": {
            "model": {
                "family": "custom",
                "custom": "tests.jobs.reads_all:ReadsAll",
                "settings": {"width": 3},
            },
            "epochs": 6, "rows_per_batch": 32, "learning_rate": 0.05, "max_restarts": 0,
            "stream_workers": 1,
        },
        "score": {"drift": {"minimum_rows": 10}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def walked(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Any]:
    root = tmp_path_factory.mktemp("many")
    examples.write_raw(root / "raw" / "a.parquet", rows(), SCHEMA)
    pipeline = examples.pipeline(root, described())
    lake = Lake(pipeline.lake)
    stages = ("clean", "featurize", "train", "score", "report")
    outcomes = {outcome.stage: outcome for outcome in walk(spark, pipeline, lake, stages)}
    return lake, outcomes


def by_hand(given: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A network's inputs, made of the raw rows by plain Python."""

    def padded(lists: list[list[Any]], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.tensor([len(each) for each in lists])
        longest = int(lengths.max())
        whole = [each + [0] * (longest - len(each)) for each in lists]
        return torch.tensor(whole, dtype=dtype), lengths

    inputs = {"numeric": torch.tensor([[row[name] for name in NUMBERS] for row in given])}
    for name, shape in (("front", (3, 3)), ("back", (2, 4))):
        images = [list(row[name]) for row in given]
        inputs[f"image_{name}"] = torch.tensor(images, dtype=torch.uint8).reshape(-1, *shape)
    for name in ("subject", "body"):
        ids = [
            [1 + zlib.crc32(word.encode()) % (BUCKETS - 1) for word in (row[name] or "").split()]
            for row in given
        ]
        made = padded(ids, torch.int32)
        inputs[f"tokens_{name}"], inputs[f"tokens_{name}_lengths"] = made
    ends = [(row["readings"] or [])[-4:] for row in given]
    inputs["series"], inputs["series_lengths"] = padded(ends, torch.float32)
    return inputs


def test_the_network_is_given_each_input_by_its_name(walked: tuple[Lake, Any]) -> None:
    lake, _ = walked
    spec = newest_spec(lake, "small")
    shapes = shapes_of(spec)
    assert {*shapes.named} == {*IMAGES, *TEXTS, "series"}
    assert shapes.lengths == {name: f"{name}_lengths" for name in (*TEXTS, "series")}
    files = lake.table(spec.table).snapshot().select(split={"test"}).uris()
    with evaluation_stream(files, spec, workers_count=1) as stream:
        (batch,) = stream.epoch(0)
    given = rows()
    wanted = by_hand([given[number] for file in files for number in pl.read_parquet(file)["id"]])
    for name, tensor in batch.tensors.items():
        if name != "label":
            assert torch.equal(tensor, wanted[name].to(tensor.dtype)), name
            assert tensor.dtype in (wanted[name].dtype, torch.float32)
    for name, lengths in batch.lengths.items():
        assert torch.equal(lengths, wanted[f"{name}_lengths"]), name


def test_it_learns_and_scores_what_it_says_itself(walked: tuple[Lake, Any]) -> None:
    lake, outcomes = walked
    assert outcomes["train"].metrics["test"]["auroc"] > 0.8
    bundle, _ = load_registered(lake, "small", "champion", "tests.jobs.reads_all:ReadsAll")
    given = rows()
    inputs = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in by_hand(given).items()
    }
    with torch.inference_mode():
        wanted = torch.sigmoid(bundle.module(inputs)[:, 0])
    predictions = pl.read_delta(lake.table("predictions").root).sort("id")
    assert predictions["id"].to_list() == [row["id"] for row in given]
    np.testing.assert_allclose(predictions["score"].to_numpy(), wanted.numpy(), atol=1e-5)


def test_drift_and_report_tell_of_all_of_them(walked: tuple[Lake, Any]) -> None:
    lake, _ = walked
    drift = pl.read_delta(lake.table("drift").root).filter(pl.col("kind") == "input")
    assert {*drift["feature"]} == {
        *(f"num_{name}" for name in NUMBERS), *IMAGES, *TEXTS, "series_readings"
    }  # fmt: skip
    missing = dict(drift.select("feature", "missing_rate").iter_rows())
    assert missing["tokens_body"] == pytest.approx(-(-ROWS // 11) / ROWS)
    assert missing["series_readings"] == pytest.approx(-(-ROWS // 13) / ROWS)
    (page,) = Path(lake.root).rglob("*.html")
    assert "num_a" in page.read_text("utf-8")
