"""Parquet files to stream, and ways to look at what was delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stream import Batch, BatchLayout, Stream

IDS = BatchLayout(scalars={"id": "id"})


def table_of(first_id: int, rows: int) -> pa.Table:
    """Rows whose every column follows from the id."""
    ids = np.arange(first_id, first_id + rows)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "num_a": pa.array(ids * 0.5, pa.float32()),
            "num_b": pa.array(ids * 2.0, pa.float64()),
            "cat_a": pa.array(ids % 7, pa.int32()),
            "late": pa.array(ids % 2, pa.float32()),
            "name": pa.array([f"n{i}" for i in ids], pa.string()),
        }
    )


def write_files(folder: Path, layout: Sequence[Sequence[int]]) -> list[str]:
    """Writes a file for each inner sequence, with row groups of these sizes; ids count on."""
    files, next_id = [], 0
    for number, sizes in enumerate(layout):
        path = folder / f"part-{number:03d}.parquet"
        with pq.ParquetWriter(path, table_of(0, 0).schema) as writer:
            for rows in sizes:
                writer.write_table(table_of(next_id, rows))
                next_id += rows
        files.append(str(path))
    return files


def ids_of(batch: Batch) -> list[int]:
    ids: list[int] = batch.tensors["id"].tolist()
    return ids


def epoch_ids(files: Sequence[str], epoch: int = 0, **settings: Any) -> list[list[int]]:
    """The ids of each batch of an epoch, for one rank."""
    with Stream(files, settings.pop("layout", IDS), **settings) as stream:
        return [ids_of(batch) for batch in stream.epoch(epoch)]


def global_steps(
    files: Sequence[str], world_size: int, epoch: int = 0, **settings: Any
) -> list[list[int]]:
    """The ids of each global step: the ranks' batches one after the other."""
    ranks = [
        epoch_ids(files, epoch, rank=rank, world_size=world_size, **settings)
        for rank in range(world_size)
    ]
    return [flat(parts) for parts in zip(*ranks, strict=True)]


def flat(steps: Sequence[Sequence[int]]) -> list[int]:
    return [row_id for step in steps for row_id in step]


def drain(batches: Iterator[Batch]) -> list[int]:
    return [row_id for batch in batches for row_id in ids_of(batch)]
