"""A DAG of Airflow 3 for each job in the `schedule` of a pipeline; docs/schedule.md tells more.

Airflow decides when, and shows what came of it. `lakestorm schedule --once JOB` does the rest, in
lakestorm's own environment: nothing of it is imported here, so neither side's packages bind the
other's. Its environment variables are those of the DAG processor and of the workers:

    LAKESTORM_PIPELINES  the YAML files, separated by colons as in PATH
    LAKESTORM_HOME       the folder that lakestorm runs in: relative paths, the lake's too, are its
    LAKESTORM            the executable; .venv/bin/lakestorm by default
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronTriggerTimetable, literal


def dags_of(pipeline_yaml: str, lakestorm: str, home: Path) -> Iterator[DAG]:
    """The DAGs of one pipeline.

    Read from the YAML itself: Airflow parses this file all the time, and asking lakestorm takes
    seconds. What is read here cannot be an interpolation; lakestorm checks the rest at each run.

    Args:
        pipeline_yaml: The file.
        lakestorm: The executable.
        home: Where it runs.

    Raises:
        ValueError: There is no schedule, or an interpolation in it.
    """
    described = yaml.safe_load((home / pipeline_yaml).read_text(encoding="utf-8"))
    name, schedule = described["name"], described.get("schedule")
    if not schedule:
        raise ValueError(f"{pipeline_yaml}: there is no schedule")
    zone = schedule.get("time_zone", "UTC")
    for job, settings in schedule["jobs"].items():
        cron = settings["cron"]
        if "${" in f"{name} {zone} {cron}":
            raise ValueError(f"{pipeline_yaml}: name, time_zone or cron is an interpolation")
        command = [lakestorm, "schedule", pipeline_yaml, "--once", job, "--json"]
        # Not a cron as a string: what Airflow makes of that depends on its configuration.
        yield dag_of(name, job, CronTriggerTimetable(cron, timezone=zone), command, home)


def dag_of(
    pipeline: str, job: str, timetable: CronTriggerTimetable, command: Sequence[str], home: Path
) -> DAG:
    """The DAG of one job: a single task, whose XCom is the run's record, a line of JSON."""
    with DAG(
        f"lakestorm_{pipeline}_{job}",
        schedule=timetable,
        catchup=False,  # as in the service: however many times were missed, it runs once
        max_active_runs=1,
        tags=["lakestorm", pipeline],
    ) as dag:
        BashOperator(
            task_id=job,
            # exec: SIGTERM is for lakestorm, not for a shell above. literal: nothing is a template.
            bash_command=literal("exec " + shlex.join(command)),
            cwd=literal(str(home)),
            # lakestorm tries again itself, as the YAML says, and records each attempt. Tries of
            # Airflow on top would multiply them, and raise the alarm before the last.
            retries=0,
        )
    return dag


def all_dags() -> list[DAG]:
    """The DAGs of all pipelines.

    Raises:
        ValueError: Two jobs have one name; Airflow would silently keep the last.
    """
    home = Path(os.environ["LAKESTORM_HOME"])
    lakestorm = os.environ.get("LAKESTORM", ".venv/bin/lakestorm")
    files = os.environ["LAKESTORM_PIPELINES"].split(os.pathsep)
    dags = [dag for file in files for dag in dags_of(file, lakestorm, home)]
    names = Counter(dag.dag_id for dag in dags)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"LAKESTORM_PIPELINES: more than one job is {', '.join(twice)}")
    return dags


all_dags()  # Airflow takes each DAG as it is made
