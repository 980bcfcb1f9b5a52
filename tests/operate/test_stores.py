"""Commands on a lake in an object store, which need no Spark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.config import load_pipeline
from pipeline.lake import Lake, commit
from pipeline.operate.doctor import Meeting, Place, compared, examine
from pipeline.scoring.drift_table import Pass, record
from tests.flights import FLIGHTS
from tests.s3_server import StoreProcess, give_credentials, new_bucket, running_store

ROWS = pa.table({"id": pa.array([1, 2, 3], pa.int64())})


@pytest.fixture(scope="module")
def store() -> Iterator[StoreProcess]:
    with pytest.MonkeyPatch.context() as patch:
        give_credentials(patch, "nobodys")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with running_store() as process:
            new_bucket(process.port, "lake")
            yield process


@pytest.fixture
def described(store: StoreProcess, tmp_path: Path) -> Path:
    """A pipeline's YAML, which says where the store is."""
    text = FLIGHTS.read_text().replace("${lake}/raw", "raw")
    lake = f"lake: s3://lake/{tmp_path.name.replace('_', '-')}\nstorage:\n"
    settings = f"  endpoint: http://127.0.0.1:{store.port}\n  region: us-east-1\n"
    path = tmp_path / "p.yaml"
    place = f"{lake}{settings}  work: {tmp_path}/work\n  jars: []\n"
    path.write_text(text.replace("lake: ${oc.env:LAKESTORM_LAKE,lake}\n", place))
    return path


@pytest.fixture
def lake(described: Path) -> Lake:
    return Lake.of(load_pipeline(described))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_runs_drift_and_restore_take_the_pipelines_yaml(described: Path, lake: Lake) -> None:
    assert json.loads(run("runs", "--lake", described, "--json").stdout) == {"runs": []}
    table = lake.table("t")
    table.create(ROWS.schema)
    for _ in range(2):
        with table.attempt() as attempt:
            commit(table, attempt.write_arrow(ROWS), attempt=attempt)
    assert "as it was at version 1" in run("restore", "t", "1", "--lake", described).stdout
    assert table.snapshot().rows == 3
    of = Pass(model_name="m", model_version=1, source_version=1, scope="new")
    row = {"feature": "f", "kind": "input", "rows": 5, "verdict": "ok", "reason": ""}
    record(lake, of, [row], datetime.now(UTC))
    [told] = json.loads(run("drift", described, "--json").stdout)["drift"]
    assert told["model_name"] == "m"


@pytest.mark.parametrize("command", [("models",), ("maintain",), ("promote", "flights", "1")])
def test_what_needs_models_asks_for_their_place(command: tuple[str, ...], described: Path) -> None:
    done = run(*command, "--lake", described)
    assert done.exit_code == 1
    assert "ConfigError: MLFLOW_TRACKING_URI: is not set" in done.stderr


def test_a_run_that_needs_models_ends_before_anything_is_written(
    described: Path, lake: Lake
) -> None:
    done = run("run", described)
    assert done.exit_code == 1
    assert "ConfigError: MLFLOW_TRACKING_URI: is not set" in done.stderr
    assert lake.folder.entries() == []


def test_doctor_says_what_is_wrong_with_a_store(described: Path) -> None:
    pipeline = load_pipeline(described, ["lake=s3://nowhere/lake"])
    found = next(examine(pipeline, None))
    assert (found.check, found.state) == ("lake", "fail")
    assert "there is no such bucket" in found.found
    pipeline = load_pipeline(described)
    # Spark would come next.
    first = [each.check for each in islice(examine(pipeline, None), 3)]
    assert first == ["lake", "commits", "MLflow"]
    assert Lake.of(pipeline).folder.entries() == []


def test_driver_and_executors_meet_in_the_store_and_on_the_disk(lake: Lake) -> None:
    meeting = Meeting.arranged(lake)
    here = Place.here(meeting)
    assert (here.lake, here.work) == ("", "")
    assert meeting.names() == meeting.names_in_folder() == {here.host}
    assert {each.state for each in compared(here, [here], meeting.names())} == {"ok"}
    meeting.end()
    assert lake.folder.entries() == []
    assert not meeting.folder.exists()
