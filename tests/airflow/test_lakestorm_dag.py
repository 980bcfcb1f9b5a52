"""The DAGs of `conf/airflow` in a real Airflow; `make test-airflow` installs it and runs these."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from omegaconf import DictConfig, OmegaConf

from pipeline.cron import trigger
from pipeline.lake import Lake
from pipeline.operate.runs import newest_runs
from tests.flights import CHECKOUT, FLIGHTS, SMALL, small_raw

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

AIRFLOW = CHECKOUT / ".venv-airflow" / "bin" / "python"
DAG = CHECKOUT / "conf" / "airflow" / "lakestorm_dag.py"
LAKESTORM = Path(sys.executable).with_name("lakestorm")
# Nothing in it may be a template, a command or the end of a word.
HOSTILE = "it's {{ 1 }} & $(touch pwned).yaml"


class Airflow:
    """An Airflow with a home and a database of its own; no service of it runs.

    Args:
        home: Its folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pipelines: list[Path] = []
        (home / "dags").mkdir()
        (home / "dags" / DAG.name).symlink_to(DAG)
        self.run("db", "migrate").check_returncode()

    def parsed(self) -> dict[str, dict[str, Any]]:
        """The DAGs as Airflow's scheduler has them after parsing, by their ids."""
        self.run("dags", "reserialize").check_returncode()
        rows = self.rows(
            "SELECT data FROM serialized_dag JOIN dag USING (dag_id) WHERE NOT is_stale"
        )
        dags = [json.loads(data)["dag"] for [data] in rows]
        return {dag["dag_id"]: dag for dag in dags}

    def next_times(self, dag_id: str, count: int) -> list[datetime]:
        """When a DAG is due next."""
        told = self.run("dags", "next-execution", dag_id, "--num-executions", str(count))
        # Warnings of Airflow stand above.
        return [datetime.fromisoformat(line) for line in told.stdout.splitlines()[-count:]]

    def rows(self, query: str) -> list[Any]:
        """What its database answers."""
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            return database.execute(query).fetchall()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of Airflow, where it finds the DAGs of `pipelines`."""
        environment = {
            **{name: value for name, value in os.environ.items() if "AIRFLOW" not in name},
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # What an administrator may have set; the DAGs say otherwise.
            "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "2",
            "AIRFLOW__SCHEDULER__CATCHUP_BY_DEFAULT": "True",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "LAKESTORM": str(LAKESTORM),
            # Relative paths start there: those below and that of the lake.
            "LAKESTORM_HOME": str(self.home),
            "LAKESTORM_PIPELINES": os.pathsep.join(path.name for path in self.pipelines),
        }
        return subprocess.run(
            [AIRFLOW, "-m", "airflow", *arguments],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    assert AIRFLOW.exists(), "`make test-airflow` installs Airflow first"
    return Airflow(tmp_path_factory.mktemp("airflow"))


def write(path: Path, schedule: dict[str, Any], **settings: Any) -> Path:
    """The demo's pipeline on a small lake, with another schedule."""
    described = OmegaConf.merge(OmegaConf.load(FLIGHTS), OmegaConf.from_dotlist(list(SMALL)))
    assert isinstance(described, DictConfig)
    described.update({**settings, "schedule": schedule})
    OmegaConf.save(described, path)
    return path


def test_each_job_is_a_dag_that_is_due_when_its_cron_says(airflow: Airflow) -> None:
    home = airflow.home
    flights = home / FLIGHTS.name
    flights.write_text(FLIGHTS.read_text())
    days = {"third": "0 0 * * 1/3", "weekend": "30 6 * * fri-sun", "late": "0 1 * * 7"}
    jobs = {name: {"cron": cron, "stages": ["clean"]} for name, cron in days.items()}
    airflow.pipelines = [flights, write(home / "other.yaml", {"jobs": jobs}, name="other")]
    dags = airflow.parsed()
    errors = airflow.run("dags", "list-import-errors")
    assert (errors.returncode, errors.stdout.splitlines()[-1]) == (0, "No data found")

    expected = {
        "lakestorm_flights_score": ("5 * * * *", "America/New_York"),
        "lakestorm_flights_train": ("30 3 * * sun", "America/New_York"),
        **{f"lakestorm_other_{name}": (cron, "UTC") for name, cron in days.items()},
    }
    assert dags.keys() == expected.keys()
    for dag_id, (cron, zone) in expected.items():
        dag = dags[dag_id]
        timetable = dag["timetable"]["__var"]
        assert (timetable["expression"], timetable["timezone"]) == (cron, zone)
        assert (dag["catchup"], dag["max_active_runs"]) == (False, 1)
        # `dags test` never tries again: the scheduler would. It has to be said, not left out.
        assert [task["__var"].get("retries") for task in dag["tasks"]] == [0]
        due = airflow.next_times(dag_id, 60)  # of a weekly job: summer and winter
        assert due == lakestorm_times(cron, zone, due[0], 60)


def lakestorm_times(cron: str, zone: str, first: datetime, count: int) -> list[datetime]:
    """When lakestorm's own scheduler would run a job, from a moment on."""
    times, at = trigger(cron, ZoneInfo(zone)), first.astimezone(ZoneInfo(zone))
    found = []
    for _ in range(count):
        found.append(times.get_next_fire_time(None, at))
        at = found[-1] + timedelta(microseconds=1)
    return found


@pytest.mark.parametrize(
    ("schedule", "copies", "told"),
    [
        ({"jobs": {"score": {"cron": "5 * * * *"}}}, 2, "more than one job is lakestorm_flights_"),
        ({"jobs": {"score": {"cron": "61 * * * *"}}}, 1, "61 * * * *"),
        ({"jobs": {"score": {"cron": "${seed} * * * *"}}}, 1, "cron is an interpolation"),
        (None, 1, "broken.yaml: there is no schedule"),
    ],
)
def test_a_pipeline_that_cannot_be_scheduled_is_an_import_error(
    airflow: Airflow, schedule: Any, copies: int, told: str
) -> None:
    airflow.pipelines = [write(airflow.home / "broken.yaml", schedule)] * copies
    airflow.parsed()
    errors = airflow.run("dags", "list-import-errors", "--output", "plain")
    assert errors.returncode == 1
    assert told in " ".join(errors.stdout.split())


def test_real_stages_under_airflow(airflow: Airflow) -> None:
    """Raw files to a champion by one DAG, to predictions by another."""
    home = airflow.home
    small_raw(home / "lake")
    train = {"cron": "30 3 * * sun", "stages": ["clean", "featurize", "train"]}
    jobs = {"train": {**train, "retries": 0}, "score": {"cron": "5 * * * *", "retries": 0}}
    airflow.pipelines = [write(home / HOSTILE, {"jobs": jobs}, lake="lake")]
    for job in jobs:
        done = airflow.run("dags", "test", f"lakestorm_flights_{job}")
        assert done.returncode == 0, done.stdout + done.stderr
    lake = Lake(home / "lake")
    scored, trained = newest_runs(lake, 10)
    assert [(run.job, run.outcome) for run in (trained, scored)] == [
        ("train", "succeeded"),
        ("score", "succeeded"),
    ]
    [stage], cleaned = scored.stages, trained.stages[0]
    predictions = pl.read_delta(lake.table("predictions").root)
    assert predictions.height == stage.rows_out == cleaned.rows_out > 0
    told = airflow.rows(
        "SELECT value FROM xcom WHERE key = 'return_value' AND dag_id = 'lakestorm_flights_score'"
    )
    [[value]] = told
    assert json.loads(json.loads(value)) == scored.facts()
    assert not list(home.glob("**/pwned"))


def test_a_job_that_fails_after_its_retries_fails_its_task(airflow: Airflow) -> None:
    jobs = {"score": {"cron": "5 * * * *", "retries": 1, "backoff_seconds": 0}}
    settings = {"name": "unlucky", "lake": "another lake"}  # without a model
    airflow.pipelines = [write(airflow.home / "unlucky.yaml", {"jobs": jobs}, **settings)]
    done = airflow.run("dags", "test", "lakestorm_unlucky_score")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "DagRun failed"
    runs = newest_runs(Lake(airflow.home / "another lake"), 10)
    assert [(run.job, run.attempt, run.outcome) for run in runs] == [
        ("score", 2, "failed"),
        ("score", 1, "failed"),
    ]
    tasks = airflow.rows("SELECT state FROM task_instance WHERE dag_id = 'lakestorm_unlucky_score'")
    assert tasks == [("failed",)]
