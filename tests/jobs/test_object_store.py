"""The whole way with a lake in an object store; all but Hadoop's S3A is what a cluster runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow.fs as pafs
import pytest

from pipeline.config import Storage
from pipeline.lake import Lake
from tests.flights import EVERY, SMALL, all_flights, small_raw
from tests.s3_server import give_credentials, new_bucket, running_store
from tests.webhdfs import running_gateway

SECRET = "wJalrXUtnFEMI-K7MDENG"  # noqa: S105 - nobody's
STAGES = ["clean", "featurize", "train", "score", "report"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_raw_flights_to_predictions_in_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_credentials(monkeypatch, SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    small_raw(tmp_path)
    with running_store() as store:
        filesystem = new_bucket(store.port, "lake")
        storage = Storage(
            endpoint=f"http://127.0.0.1:{store.port}",
            region="us-east-1",
            jars=(),
            work=str(tmp_path / "work"),
        )
        lake = Lake("s3://lake/flights", storage)
        settings = [
            "lake=s3://lake/flights",
            *(f"storage.{name}={value}" for name, value in storage if value),
            "storage.jars=[]",
            f"source.path={tmp_path}/raw/flights",
            *(f"clean.joins.{name}.path={tmp_path}/raw/{name}" for name in ("weather", "planes")),
            *SMALL,
        ]
        with running_gateway(filesystem, "lake", "flights") as gateway:
            output = _walked(tmp_path, gateway, settings)
        _check(output, lake, filesystem)
    assert not list(tmp_path.glob("s3:*"))
    assert [path.name for path in (tmp_path / "work").iterdir()]


def _walked(folder: Path, gateway: dict[str, str], settings: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.on_store", json.dumps(gateway), *settings],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-8000:]
    assert SECRET not in done.stdout + done.stderr
    return done.stdout


def _check(output: str, lake: Lake, filesystem: pafs.FileSystem) -> None:
    lines = output.splitlines()
    [refused] = [line for line in lines if line.startswith("refused ")]
    assert "has no org.apache.hadoop.fs.s3a.S3AFileSystem" in refused
    told = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("outcome ")]
    assert [each["stage"] for each in told] == STAGES * 2
    assert [each["unchanged"] for each in told] == [False] * 5 + [True] * 5
    months = Counter(all_flights()["month"].to_pylist())
    raw = sum(-(-rows // EVERY) for rows in months.values())
    assert told[0]["rows_in"] == raw
    keys = ["time_hour", "carrier", "flight"]
    found = {name: _keys(lake, name, keys) for name in ("clean", "predictions")}
    assert found["predictions"] == found["clean"]
    assert set(found["clean"].values()) == {1}
    assert found["clean"].total() == told[0]["rows_out"]
    with filesystem.open_input_file("lake/flights/reports/flights.html") as page:
        assert b"<html" in page.read()
    left = filesystem.get_file_info(pafs.FileSelector("lake", recursive=True))
    assert not [info.path for info in left if info.is_file and "_temporary" in info.path]


def _keys(lake: Lake, name: str, keys: list[str]) -> Counter[tuple[object, ...]]:
    """By an engine that knows nothing of us."""
    table = lake.table(name)
    options = {**(table.folder.delta_options or {}), "aws_access_key_id": "AKIANOBODY"}
    rows = pl.read_delta(table.root, storage_options={**options, "aws_secret_access_key": SECRET})
    return Counter(rows.select(keys).iter_rows())
