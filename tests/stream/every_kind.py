"""Rows of every kind of column, the layout that asks for all of them, and equality of batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.stream import Batch, BatchLayout, Stream
from pipeline.stream.codecs import RawCodec
from pipeline.stream.layout import SequenceColumn, TensorColumn

EVERY_KIND = BatchLayout(
    scalars={"id": "id", "one": "number"},
    matrices={"flat": ("number", "number"), "mixed": ("number", "pair")},
    tensors={
        "image": TensorColumn(column="image", shape=(2, 3)),
        "raw": TensorColumn(
            column="raw", shape=(2,), codec=RawCodec(shape=(2,), dtype=np.dtype(np.int16))
        ),
    },
    sequences={"s": SequenceColumn(column="sequence", padding=-1)},
    strings=("text",),
)


def every_kind(rows: int) -> dict[str, pa.Array]:
    ids = np.arange(rows)
    raw = np.stack([ids, -ids], 1).astype("<i2")
    return {
        "number": pa.array(ids / 2, pa.float32()),
        "pair": pa.array([[i, i + 0.25] for i in ids], pa.list_(pa.float32())),
        "image": lists((ids[:, None, None] + np.arange(6).reshape(2, 3)) % 251, pa.list_).cast(
            pa.list_(pa.list_(pa.uint8(), 3), 2)
        ),
        "raw": pa.array([row.tobytes() for row in raw], pa.binary()),
        "sequence": pa.array([sequence_of(int(i)) for i in ids], pa.list_(pa.int64())),
        "text": pa.array([None if i % 5 == 0 else f"t{i}" for i in ids], pa.string()),
    }


def lists(values: Any, list_type: Callable[[pa.DataType, int], pa.DataType]) -> pa.Array:
    """Wraps an array of [rows, a, b, ...] into as many lists as it has further dimensions."""
    flat = pa.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        wanted = list_type(flat.type, size)
        if pa.types.is_fixed_size_list(wanted):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        else:
            offsets = pa.array(range(0, len(flat) + 1, size), pa.int32())
            flat = pa.ListArray.from_arrays(offsets, flat).cast(wanted)
    return flat


def sequence_of(row_id: int) -> list[int]:
    """Empty, short and, rarely, long."""
    return list(range(row_id, row_id + (20 if row_id % 17 == 0 else row_id % 4)))


def write_parts(folder: Path, rows: int, rows_per_group: int, **changed: pa.Array) -> list[str]:
    """Writes an id and every kind of column, in files of 100 rows."""
    table = pa.table({"id": pa.array(range(rows)), **every_kind(rows), **changed})
    paths = []
    for number, first in enumerate(range(0, rows, 100)):
        paths.append(str(folder / f"part-{number:03d}.parquet"))
        pq.write_table(table.slice(first, 100), paths[-1], row_group_size=rows_per_group)
    return paths


def batches_of(
    files: Sequence[str], epochs: int = 1, layout: BatchLayout = EVERY_KIND, **chosen: Any
) -> list[Batch]:
    with Stream(files, layout, **{"rows_per_batch": 40, **chosen}) as stream:
        return [batch for epoch in range(epochs) for batch in stream.epoch(epoch)]


def same_batch(one: Batch, other: Batch) -> bool:
    def equal(these: dict[str, torch.Tensor], those: dict[str, torch.Tensor]) -> bool:
        return list(these) == list(those) and all(
            these[name].dtype == those[name].dtype and torch.equal(these[name], those[name])
            for name in these
        )

    return (
        (one.rows, one.step) == (other.rows, other.step)
        and equal(one.tensors, other.tensors)
        and equal(one.lengths, other.lengths)
        and {n: s.tolist() for n, s in one.strings.items()}
        == {n: s.tolist() for n, s in other.strings.items()}
    )


def assert_same_batches(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert same_batch(one, other), f"step {other.step}"
