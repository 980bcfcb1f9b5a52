"""What runs on an executor: row groups in, one Parquet file out, a message for the commit."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from pipeline.errors import ScoringError
from pipeline.features.spec import FeatureSpec
from pipeline.lake import DataFile, data_file
from pipeline.lake.files import partition_folder
from pipeline.lake.schema import without
from pipeline.scoring.plan import ScoreTask
from pipeline.stream import RowGroup
from pipeline.stream.blocks import to_block
from pipeline.stream.footers import FooterCache, open_parquet, read_footers
from pipeline.stream.layout import resolve
from pipeline.training.bundle import Bundle, load_bundle, save_bundle
from pipeline.training.splits import layout_of


@dataclass(frozen=True)
class PackedModel:
    """A model's files, small enough to travel to executors with the job."""

    digest: str
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all tasks of one scoring run share."""

    model: PackedModel
    model_name: str
    model_version: int
    source_version: int
    scored_at_us: int
    """Microseconds since 1970, UTC; one for the run."""
    table_root: str
    attempt: str
    """Folder of the write attempt, relative to the table."""
    schema: pa.Schema
    """Of `predictions`, partition columns included."""
    partition_by: tuple[str, ...]
    period_column: str
    rows_per_batch: int


def score_tasks(job: Job, tasks: Iterator[ScoreTask]) -> Iterator[DataFile]:
    """Scores each task into a file of its own; for `mapPartitions`.

    An attempt that fails, or a speculative twin, leaves a file that nobody commits: names are new
    each time, and only the messages that reach the driver are committed.
    """
    # One task has one core; more threads would stand in each other's way.
    torch.set_num_threads(1)
    bundle = _loaded(job.model)
    for task in tasks:
        yield _score(job, bundle, task)


def pack(bundle: Bundle) -> PackedModel:
    """The files of a model, as bytes that travel with the job."""
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder), bundle.module.state_dict(), bundle.facts, bundle.spec)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    return PackedModel(digest.hexdigest(), files)


# One Python worker scores many tasks; it loads the model once.
_LOADED: dict[str, Bundle] = {}


def _loaded(model: PackedModel) -> Bundle:
    if model.digest not in _LOADED:
        _LOADED.clear()
        with tempfile.TemporaryDirectory() as folder:
            for name, content in model.files.items():
                (Path(folder) / name).write_bytes(content)
            _LOADED[model.digest] = load_bundle(Path(folder))
    return _LOADED[model.digest]


def _score(job: Job, bundle: Bundle, task: ScoreTask) -> DataFile:
    partition = {
        "model_name": job.model_name,
        "model_version": str(job.model_version),
        job.period_column: task.period,
    }
    folder = f"{job.attempt}/{partition_folder(partition)}"
    path = f"{folder}/{uuid.uuid4().hex}.parquet"
    (Path(job.table_root) / folder).mkdir(parents=True, exist_ok=True)
    files = sorted({group.file for group in task.row_groups})
    footers = FooterCache()
    layout = resolve(layout_of(bundle.spec, with_label=False), read_footers(files, footers))
    with pq.ParquetWriter(
        Path(job.table_root) / path, without(job.schema, job.partition_by)
    ) as out:
        for group in task.row_groups:
            rows = _read(group, bundle.spec, footers)
            block = to_block(rows, layout, f"{group.file}, row group {group.index}")
            tensors = {spec.name: spec.tensor(block[spec.name]) for spec in layout.tensors}
            scores = predict(bundle.module, tensors, rows.num_rows, job.rows_per_batch)
            out.write_table(_predictions(job, bundle.spec, rows, scores))
    return data_file(job.table_root, path, job.schema, job.partition_by)


def predict(
    module: nn.Module,
    tensors: Mapping[str, npt.NDArray[Any]],
    rows: int,
    rows_per_batch: int,
) -> npt.NDArray[np.float32]:
    """Probabilities of class 1.

    Args:
        module: The network in evaluation mode; logits [rows] from float32 [rows, n] and
            int32 [rows, c].
        tensors: The arrays `numeric` and `categorical`, each absent where the spec has none.
        rows: Rows in each.
        rows_per_batch: Rows that go through the network at once; bounds its memory.

    Returns:
        float32 [rows].
    """
    numeric = torch.as_tensor(tensors.get("numeric", np.empty((rows, 0), np.float32)))
    categorical = torch.as_tensor(tensors.get("categorical", np.empty((rows, 0), np.int32)))
    with torch.inference_mode():
        pieces = [
            torch.sigmoid(module(some_numeric, some_categorical))
            for some_numeric, some_categorical in zip(
                torch.split(numeric, rows_per_batch),
                torch.split(categorical, rows_per_batch),
                strict=True,
            )
        ]
    scores: npt.NDArray[np.float32] = torch.cat(pieces).numpy()
    return scores


def _read(group: RowGroup, spec: FeatureSpec, footers: FooterCache) -> pa.Table:
    """Keys and inputs of one row group; a column that is both is read once."""
    columns = [*spec.keys, *spec.numeric_columns, *spec.categorical_columns]
    try:
        with closing(open_parquet(group.file, footers)) as file:
            return file.read_row_group(group.index, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise ScoringError(
            f"file {group.file}, row group {group.index}",
            f"cannot be read: {error}",
            "Run featurize again; nothing was committed.",
        ) from error


def _predictions(
    job: Job, spec: FeatureSpec, rows: pa.Table, scores: npt.NDArray[np.float32]
) -> pa.Table:
    """The rows as `predictions` keeps them, partition columns left out."""
    schema = without(job.schema, job.partition_by)
    constants = {
        "spec_hash": spec.hash,
        "source_version": job.source_version,
        "scored_at": job.scored_at_us,
    }
    arrays = [rows[key].cast(schema.field(key).type) for key in spec.keys]
    arrays.append(pa.array(scores))
    for name, value in constants.items():
        scalar = pa.scalar(value, schema.field(name).type)
        arrays.append(pa.repeat(scalar, rows.num_rows))
    return pa.Table.from_arrays(arrays, schema=schema)
