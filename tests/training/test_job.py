from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pipeline.config import Pipeline, load_pipeline
from pipeline.errors import TrainingError
from pipeline.lake import Lake
from pipeline.session import CHECKOUT
from pipeline.training import causes, worker
from pipeline.training.job import Job
from tests.training import examples

SPEC = examples.spec()
# Whatever the settings are, a job's pipeline has to come back from its file.
PIPELINES = sorted((CHECKOUT / "conf" / "pipelines").glob("*.yaml"))


def job_of(lake: Lake, pipeline: Pipeline) -> Job:
    examples.write_features(lake, SPEC, {"train": 4, "validation": 2, "test": 2})
    version = lake.table(SPEC.table).snapshot().version
    job = Job(pipeline=pipeline, lake=lake, spec=SPEC, features_version=version)
    job.folder.mkdir(parents=True, exist_ok=True)
    return job


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_job_comes_back_from_its_file(lake: Lake, path: Path) -> None:
    job = job_of(lake, load_pipeline(path))
    read = Job.read(job.write())
    assert read.pipeline == job.pipeline
    assert read.fingerprint == job.fingerprint


def hash_carriers(tree: Any) -> None:
    tree.features.categorical.carrier = {"encoding": "hash", "buckets": 50}


def read_a_table(tree: Any) -> None:
    tree.source = {"table": "db.flights", "columns": tree.source.columns}


def look_up_weather(tree: Any) -> None:
    tree.clean.table_rules = {"known": {"reference": "weather", "action": "warn"}}


@pytest.mark.parametrize("change", [hash_carriers, read_a_table, look_up_weather])
def test_settings_that_may_not_stand_beside_others_come_back(
    lake: Lake, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    tree = OmegaConf.load(CHECKOUT / "conf" / "pipelines" / "flights.yaml")
    change(tree)
    OmegaConf.save(tree, tmp_path / "pipeline.yaml")
    job = job_of(lake, load_pipeline(tmp_path / "pipeline.yaml"))
    assert Job.read(job.write()).pipeline == job.pipeline


def test_a_job_with_every_setting_of_a_column_comes_back(lake: Lake, tmp_path: Path) -> None:
    tree = OmegaConf.load(CHECKOUT / "conf" / "pipelines" / "retail.yaml")
    tree.source.columns.invoiced = {
        "type": "timestamp",
        "from": ["InvoiceDate", "Invoiced"],
        "format": ["yyyy-MM-dd HH:mm:ss"],
        "time_zone": "Europe/London",
        "default": "2010-12-01 08:26:00",
        "sensitive": True,
    }
    tree.source.columns.unit_price = {
        "type": "decimal(12,2)",
        "decimal_separator": ",",
        "grouping": ".",
        "required": True,
    }
    OmegaConf.save(tree, tmp_path / "pipeline.yaml")
    job = job_of(lake, load_pipeline(tmp_path / "pipeline.yaml"))
    read = Job.read(job.write())
    assert read.pipeline == job.pipeline
    assert read.fingerprint == job.fingerprint


def test_a_job_that_cannot_be_read_is_a_fault_of_the_run_and_no_hang(lake: Lake) -> None:
    job = job_of(lake, load_pipeline(PIPELINES[0]))
    path = job.write()
    path.write_text(json.dumps({"pipeline": {"naem": "x"}}))
    with pytest.raises(SystemExit):
        worker.work(str(path))
    cause = causes.first_cause(job.folder, {0: causes.EXIT_REPORTED}, 600)
    assert isinstance(cause, TrainingError)
    assert "naem" in cause.problem
    assert "no progress" not in cause.problem
