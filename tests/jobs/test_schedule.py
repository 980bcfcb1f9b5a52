from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipeline.lake import Lake
from pipeline.operate.schedule.records import RunTable
from tests.command import ENVIRONMENT, LAKESTORM, lakestorm
from tests.flights import FLIGHTS, SMALL, small_raw
from tests.operate.scheduled import job


@pytest.mark.long
@pytest.mark.timeout(1200)  # seven Sparks start, one after the other
def test_real_stages_on_a_schedule(tmp_path: Path) -> None:
    """Raw files to predictions by `--once`, twice; then by the service, stopped meanwhile."""
    lake, described = Lake(tmp_path / "lake"), yaml.safe_load(FLIGHTS.read_text())
    small_raw(Path(lake.root))
    described["schedule"] = {
        "health_port": 0,
        "jobs": {
            "nightly": job(incremental=False, stages=["clean", "featurize", "train", "score"]),
            "clean": job(incremental=False),
        },
    }
    path = tmp_path / "flights.yaml"
    path.write_text(yaml.safe_dump(described))
    settings = [option for item in (f"lake={lake.root}", *SMALL) for option in ("--set", item)]

    once = ("schedule", str(path), *settings, "--once", "nightly")
    first, again = lakestorm(*once), lakestorm(*once)
    assert (first["outcome"], again["outcome"]) == ("succeeded", "unchanged")
    [cleaned, _, _, scored] = first["stages"]
    assert scored["rows_out"] == pl.read_delta(lake.table("predictions").root).height
    assert scored["rows_in"] == cleaned["rows_out"] > 0
    facts = ("table", "version", "rows_out")
    assert [[stage[fact] for fact in facts] for stage in first["stages"]] == [
        [stage[fact] for fact in facts] for stage in again["stages"]
    ]

    # A run of long ago makes `clean` due at once; other rules give it something to commit.
    old = RunTable(lake).read()[0]
    long_ago = old.started_at.replace(year=old.started_at.year - 2)
    facts_of_old = {"run_id": "old", "job": "clean", "started_at": long_ago}
    RunTable(lake).started(type(old)(**{**old.__dict__, **facts_of_old}))
    stricter = ("--set", "clean.rules.distance_is_flyable.check=distance > 100")
    before = lake.table("clean").snapshot().version
    with subprocess.Popen(
        [*LAKESTORM, "schedule", str(path), *settings, *stricter],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        log = []
        for line in service.stderr or ():
            log.append(line)
            if "job clean, attempt 1 begins" in line:
                service.send_signal(signal.SIGTERM)
    assert service.returncode == 0, "".join(log)
    assert any("stopping: nothing new begins" in line for line in log)
    [newest, *rest] = lakestorm("runs", "--lake", lake.root)["runs"]
    assert (newest["job"], newest["outcome"]) == ("clean", "succeeded"), "".join(log)
    assert newest["stages"][0]["version"] == lake.table("clean").snapshot().version > before
    assert [run["job"] for run in rest] == ["nightly", "nightly", "clean"]
