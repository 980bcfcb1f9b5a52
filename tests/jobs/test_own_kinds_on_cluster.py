"""Users' own kinds, and an Arrow UDF, where driver, ranks and executors are different processes."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.clean import examples
from tests.features import sounds
from tests.features.test_own_kinds import FEATURES
from tests.jobs.conftest import submit

ROWS = 240


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_executors_and_ranks_know_the_users_kinds(standalone_master: str, tmp_path: Path) -> None:
    columns = {"id": "bigint", "month": "int", "x": "double", "n": "bigint", "sound": "binary"}
    audio = {"sample_rate": 8000, "frame_ms": 8, "hop_ms": 4, "mels": 4, "longest": 9}
    pipeline = examples.pipeline(
        tmp_path,
        {
            "source.columns": {name: {"type": kind} for name, kind in columns.items()},
            "features": {**FEATURES, "audio": {"sound": audio}},
            "train": {
                "model": {"family": "rnn", "units": 4},
                "epochs": 1, "rows_per_batch": 32, "max_restarts": 0, "stream_workers": 1,
            },
        },
    )  # fmt: skip
    rows = pl.DataFrame(
        {
            "id": range(ROWS),
            "month": [number % 4 + 1 for number in range(ROWS)],
            "x": [number % 20 / 4 for number in range(ROWS)],
            "n": [number * 7 for number in range(ROWS)],
            "sound": [sounds.wav(sounds.tone(n, 40 * (n % 9))) for n in range(ROWS)],
        }
    )
    (tmp_path / "raw").mkdir()
    rows.write_parquet(tmp_path / "raw" / "a.parquet")
    told = {}
    for stage in ("clean", "featurize", "train", "score"):
        more = ("--workers", "2") if stage == "train" else ()
        output = submit(standalone_master, stage, str(tmp_path / "pipeline.yaml"), *more, "--json")
        told[stage] = json.loads(output.splitlines()[-1])["stages"][0]
    assert told["score"]["rows_out"] == ROWS
    predictions = pl.read_delta(str(Path(pipeline.lake) / "predictions"))
    assert sorted(predictions["id"]) == list(range(ROWS))
