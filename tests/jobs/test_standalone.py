from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from pipeline.lake import Lake
from tests.flights import EVERY, FLIGHTS, SMALL, all_flights, small_raw
from tests.jobs.conftest import submit


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(900)  # eight drivers and executors start, one core each
def test_clean_to_score_by_spark_submit_on_a_standalone_cluster(
    standalone_master: str, tmp_path: Path
) -> None:
    small_raw(tmp_path)
    settings = [option for item in (f"lake={tmp_path}", *SMALL) for option in ("--set", item)]
    told = {}
    for stage in ("clean", "featurize", "train", "score"):
        output = submit(standalone_master, stage, str(FLIGHTS), *settings, "--json")
        told[stage] = json.loads(output.splitlines()[-1])
        print(stage, told[stage]["stages"][0]["seconds"])  # noqa: T201 (shown when it fails)
    months = Counter(all_flights()["month"].to_pylist())
    raw = sum(-(-rows // EVERY) for rows in months.values())
    (cleaned,) = told["clean"]["stages"]
    assert cleaned["rows_in"] == raw
    assert cleaned["rows_out"] + cleaned["rows_quarantined"] + cleaned["rows_dropped"] == raw
    keys = ["time_hour", "carrier", "flight"]
    lake = Lake(tmp_path)
    scored = Counter(pl.read_delta(lake.table("predictions").root).select(keys).iter_rows())
    assert scored == Counter(pl.read_delta(lake.table("clean").root).select(keys).iter_rows())
    assert set(scored.values()) == {1}
    assert told["score"]["predictions"]["rows"] == cleaned["rows_out"]
