from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pyspark.sql import SparkSession
from safetensors.torch import load_file

from pipeline.clean.stage import clean
from pipeline.features.stage import featurize
from pipeline.lake import Lake
from tests.flights import FLIGHTS, SMALL, small_pipeline, small_raw
from tests.jobs.conftest import submit

WORKERS = 2


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_two_workers_on_a_cluster_lose_an_executor_and_end_as_if_they_had_not(
    spark: SparkSession, standalone_master: str, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    small_raw(lake)
    pipeline = small_pipeline(lake)
    clean(spark, pipeline, Lake(lake))
    featurize(spark, pipeline, Lake(lake))
    other = tmp_path / "undisturbed"
    shutil.copytree(lake, other)
    plan = tmp_path / "plan.json"
    undisturbed = train(standalone_master, other, plan)
    plan.write_text(json.dumps({"how": "executor", "rank": 1, "step": 12, "times": 1}))
    found = train(standalone_master, lake, plan)
    assert json.loads(plan.read_text())["times"] == 0, "no executor was killed"
    assert found["metrics"] == undisturbed["metrics"]
    one, two = weights(lake), weights(other)
    assert all(torch.equal(one[name], two[name]) for name in one)


def train(master: str, lake: Path, plan: Path) -> dict[str, Any]:
    settings = [
        f"lake={lake}",
        *SMALL,
        "train.epochs=2",
        "train.max_restarts=2",
        "train.rows_per_batch=256",
        "train.checkpoint_every_steps=5",
    ]
    described = yaml.safe_load(FLIGHTS.read_text())
    described["train"]["model"] = {
        "family": "custom",
        "custom": "tests.training.faulty:Faulty",
        "settings": {"plan": str(plan)},
    }
    pipeline = plan.with_name("flights.yaml")
    pipeline.write_text(yaml.safe_dump(described))
    changes = [option for item in settings for option in ("--set", item)]
    told = submit(master, "train", str(pipeline), "--workers", str(WORKERS), "--json", *changes)
    summary: dict[str, Any] = json.loads(told.splitlines()[-1])
    assert summary["metrics"]["test"]["rows"] > 0
    return summary


def weights(lake: Path) -> dict[str, torch.Tensor]:
    [file] = lake.glob("mlflow-artifacts/*/artifacts/model/weights.safetensors")
    return load_file(file)
