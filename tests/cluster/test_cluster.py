"""The parts of the cluster are killed by turns; what the pipeline leaves is as if they were not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tests.cluster.conftest import SETTINGS, Cluster, Job, own, until
from tests.flights import FLIGHTS

pytestmark = [pytest.mark.containers, pytest.mark.timeout(5400)]

KEYS = ["time_hour", "carrier", "flight"]
BASE = "undisturbed"
WORKERS = ("--workers", "2")
OF_RUN = ("scored_at", "source_version", "model_name", "model_version")
"""Columns of `predictions` that tell of the run, not of the row."""


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> dict[str, Any]:
    """The whole way with nobody killed: summaries by stage, and copies of the lake on the way."""
    cluster.new_lake(BASE)
    told = {"clean": cluster.run("clean", BASE), "featurize": cluster.run("featurize", BASE)}
    cluster.new_lake("featurized", like=BASE)
    told["train"] = cluster.run("train", BASE, *WORKERS)
    cluster.new_lake("trained", like=BASE)
    told["score"] = cluster.run("score", BASE)
    told["report"] = cluster.run("report", BASE)
    return told


def table(lake: Path, name: str) -> pl.DataFrame:
    frame = pl.read_delta(str(lake / name))
    frame = frame.drop([column for column in OF_RUN if column in frame.columns])
    return frame.sort(pl.all().exclude(pl.List, pl.Struct), nulls_last=True)


def same(cluster: Cluster, lake: str, *names: str) -> None:
    """Compares tables with the undisturbed lake's, value by value."""
    for name in names:
        found, wanted = table(cluster.lakes / lake, name), table(cluster.lakes / BASE, name)
        assert wanted.height > 0 or name == "quarantine"
        assert found.equals(wanted), name


def finish(cluster: Cluster, job: Job, stage: str, lake: str, *arguments: str, name: str) -> Any:
    """Ends as the issue allows: right, or with one clear error and right when begun again."""
    code, out, err = job.finish()
    if code == 0:
        return json.loads(out.splitlines()[-1])
    # Where spark-submit puts all that Python says.
    assert "lakestorm: " in out, out[-5000:] + err[-5000:]
    assert "Traceback" not in out.split("lakestorm: ")[-1], out[-5000:]
    return cluster.run(stage, lake, *arguments, name=name)


def busy_worker(cluster: Cluster, job: Job) -> str:
    """Waits until executors are at work; the container of one that is."""
    found: str = until("a task of a job", lambda: job.ended() or cluster.busy_worker())
    assert not job.ended(), job.finish()
    return found


def test_the_whole_way(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    [cleaned] = undisturbed["clean"]["stages"]
    assert cleaned["rows_in"] == (
        cleaned["rows_out"] + cleaned["rows_quarantined"] + cleaned["rows_dropped"]
    )
    lake = cluster.lakes / BASE
    scored = pl.read_delta(str(lake / "predictions"))
    assert scored.height == cleaned["rows_out"] > 15_000
    cleaned_keys = pl.read_delta(str(lake / "clean")).select(KEYS).sort(KEYS)
    assert scored.select(KEYS).sort(KEYS).equals(cleaned_keys)
    assert undisturbed["train"]["metrics"]["test"]["rows"] > 0
    assert (lake / "reports" / f"{BASE}.html").exists()


@pytest.mark.usefixtures("undisturbed")
def test_a_worker_dies_in_clean(cluster: Cluster) -> None:
    cluster.new_lake("clean_killed")
    job = cluster.start("clean", "clean_killed")
    cluster.kill(busy_worker(cluster, job))
    finish(cluster, job, "clean", "clean_killed", name="clean_killed")
    same(cluster, "clean_killed", "clean", "quarantine")


def test_a_worker_dies_in_training(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    trained_with(cluster, undisturbed, "spark-worker")


def test_mlflow_dies_in_training(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    trained_with(cluster, undisturbed, "mlflow")


def trained_with(cluster: Cluster, undisturbed: dict[str, Any], victim: str) -> None:
    """Trains, kills a service once there is a checkpoint, and compares the model."""
    name = f"{victim.replace('-', '_')}_killed"
    lake = cluster.new_lake(name, like="featurized")
    cluster.run("featurize", name)  # specs belong to a pipeline's name, and so do models
    often = ("--set", "train.checkpoint_every_steps=5")
    job = cluster.start("train", name, *WORKERS, *often)
    until("a checkpoint", lambda: job.ended() or list(lake.glob("runs/**/step-*.ckpt")))
    assert not job.ended(), job.finish()
    cluster.kill(cluster.containers(victim)[0])
    told = finish(cluster, job, "train", name, *WORKERS, *often, name=name)
    assert told["metrics"] == undisturbed["train"]["metrics"]
    until("two workers", lambda: cluster.workers() == 2)


@pytest.mark.usefixtures("undisturbed")
def test_a_worker_dies_in_scoring(cluster: Cluster) -> None:
    cluster.new_lake("score_killed", like="trained")
    job = cluster.start("score", "score_killed", name=BASE)
    cluster.kill(busy_worker(cluster, job))
    finish(cluster, job, "score", "score_killed", name=BASE)
    same(cluster, "score_killed", "predictions")


def test_the_master_dies_between_jobs(cluster: Cluster, undisturbed: dict[str, Any]) -> None:
    cluster.new_lake("master_killed")
    cluster.run("clean", "master_killed")
    cluster.kill(cluster.containers("spark-master")[0])
    until("two workers", lambda: cluster.workers() == 2)
    told = cluster.run("featurize", "master_killed", name=BASE)  # which a spec's hash knows
    assert told["stages"][0]["table"] == undisturbed["featurize"]["stages"][0]["table"]
    same(cluster, "master_killed", "clean", "quarantine", told["stages"][0]["table"])


@pytest.mark.usefixtures("undisturbed")
def test_a_worker_is_cut_off_and_comes_back(cluster: Cluster) -> None:
    cluster.new_lake("cut_off", like="trained")
    job = cluster.start("score", "cut_off", name=BASE)
    worker = busy_worker(cluster, job)
    cluster.network("disconnect", worker)
    try:
        finish(cluster, job, "score", "cut_off", name=BASE)
    finally:
        cluster.network("connect", worker)
    same(cluster, "cut_off", "predictions")
    until("two workers", lambda: cluster.workers() == 2)
    until("executors on both", lambda: len(cluster.hosts()) == 2)


@pytest.mark.usefixtures("undisturbed")
def test_the_scheduler_dies_in_the_middle_of_a_commit(cluster: Cluster) -> None:
    """`quarantine` is committed and `clean` is not: the next run finishes it."""
    try:
        lake = scheduler_killed_between_commits(cluster)
        wanted = table(cluster.lakes / BASE, "predictions").height
        until("scores", lambda: scored(lake) == wanted, pause=1)
    finally:
        # With nothing to do again, as the other tests find it.
        cluster.compose("up", "--detach", "--no-build", "--no-deps", "scheduler")
    same(cluster, lake.name, "clean", "quarantine", "predictions")


def scheduler_killed_between_commits(cluster: Cluster) -> Path:
    """Kills it there; the lake. The moment is short: where it is missed, on another lake."""
    for attempt in range(5):
        lake = cluster.new_lake(f"scheduled_{attempt}")
        cluster.compose(
            *("up", "--detach", "--no-build", "--no-deps", "scheduler"),
            PIPELINE=every_minute(cluster, lake.name),
        )
        [scheduler] = cluster.containers("scheduler")
        cluster.kill(scheduler, when=committed(lake, "quarantine").exists)
        if not committed(lake, "clean").exists():
            return lake
        cluster.compose("stop", "scheduler")
    pytest.fail("the scheduler could not be killed between its two commits")


def every_minute(cluster: Cluster, lake: str) -> str:
    """What `lakestorm schedule` is told, to clean and score a lake at once."""
    described = yaml.safe_load(FLIGHTS.read_text())
    described["schedule"]["jobs"] = {
        "score": {"cron": "* * * * *", "stages": ["clean", "score"], "incremental": False}
    }
    path = cluster.lakes / "scheduled.yaml"
    # In its order: it is that of the columns, too.
    path.write_text(yaml.safe_dump(described, sort_keys=False))
    own(path)
    settings = (f"lake=/lake/{lake}", f"name={BASE}", *SETTINGS)
    return f"/lake/{path.name} {' '.join(f'--set {each}' for each in settings)}"


def committed(lake: Path, name: str) -> Path:
    """The log's entry of a table's first commit with rows."""
    return lake / name / "_delta_log" / f"{1:020d}.json"


def scored(lake: Path) -> int:
    log = lake / "predictions" / "_delta_log"
    return pl.read_delta(str(log.parent)).height if log.is_dir() and any(log.iterdir()) else 0
