"""What runs on an executor: row groups in, one Parquet file out, a message for the commit."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.errors import ScoringError
from pipeline.features.spec import FeatureSpec
from pipeline.lake import DataFile, data_file
from pipeline.lake.files import partition_folder
from pipeline.lake.schema import without
from pipeline.scoring.plan import ScoreTask
from pipeline.stream import RowGroup
from pipeline.stream.batches import padded
from pipeline.stream.blocks import to_block
from pipeline.stream.footers import FooterCache, open_parquet, read_footers
from pipeline.stream.layout import ResolvedLayout, resolve
from pipeline.training.bundle import Bundle, load_bundle, save_bundle
from pipeline.training.networks import weights_type
from pipeline.training.objective import objective_of
from pipeline.training.splits import Rows, cast, evaluation_rows, layout_of


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
    custom: str | None
    """The user's own network, which no artifact names."""


def score_tasks(job: Job, tasks: Iterator[ScoreTask]) -> Iterator[DataFile]:
    """Scores each task into a file of its own; for `mapPartitions`.

    An attempt that fails, or a speculative twin, leaves a file that nobody commits: names are new
    each time, and only the messages that reach the driver are committed.
    """
    # One task has one core; more threads would stand in each other's way.
    torch.set_num_threads(1)
    bundle = _loaded(job.model, job.custom)
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


def _loaded(model: PackedModel, custom: str | None) -> Bundle:
    if model.digest not in _LOADED:
        _LOADED.clear()
        with tempfile.TemporaryDirectory() as folder:
            for name, content in model.files.items():
                (Path(folder) / name).write_bytes(content)
            _LOADED[model.digest] = load_bundle(Path(folder), custom)
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
            inputs = _inputs(rows, layout, f"{group.file}, row group {group.index}")
            predicted = predict(bundle, inputs, rows.num_rows)
            out.write_table(_predictions(job, bundle.spec, rows, predicted))
    return data_file(job.table_root, path, job.schema, job.partition_by)


def predict(bundle: Bundle, inputs: Mapping[str, Tensor], rows: int) -> dict[str, pa.Array]:
    """What a model says of some rows.

    Args:
        bundle: The model.
        inputs: What its network is given, each [rows, ...].
        rows: How many.

    Returns:
        The columns of `prediction_columns`, each of `rows` values.
    """
    objective = objective_of(bundle)
    dtype = weights_type(bundle.module)
    whole = Rows(inputs=cast(inputs, dtype), labels=None, rows=rows)
    with torch.inference_mode():
        pieces = [
            objective.predictions(bundle.module(piece.inputs), piece)
            for piece in whole.pieces(-(-rows // evaluation_rows(bundle.spec)) or 1)
        ]
    joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    return {
        name: _column(joined[name], bundle.facts.classes if name == "class" else None)
        for name in prediction_columns(bundle.facts.task)
    }


def prediction_columns(task: str) -> dict[str, pa.DataType]:
    """Columns of `predictions` that hold what a model of that task says; others differ not."""
    several = pa.list_(pa.float32())
    return {
        "binary": {"score": pa.float32()},
        "regression": {"score": pa.float32()},
        "multiclass": {"score": pa.float32(), "class": pa.string(), "probabilities": several},
        "multilabel": {"probabilities": several},
        "reconstruction": {"score": pa.float32(), "latent": several},
    }[task]


def _column(values: Tensor, classes: Sequence[str] | None) -> pa.Array:
    """A column [rows], of names where `classes` gives them, or of lists for [rows, several]."""
    numbers = values.numpy()
    if classes is not None:
        return pa.array(classes, pa.string()).take(pa.array(numbers))
    flat = pa.array(numbers.astype(np.float32).reshape(-1))
    if numbers.ndim == 1:
        return flat
    # [rows, several] -> offsets 0, several, 2 several, ...
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * numbers.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _inputs(rows: pa.Table, layout: ResolvedLayout, where: str) -> dict[str, Tensor]:
    """What the network is given, from a row group's columns."""
    block = to_block(rows, layout, where)
    inputs = {spec.name: torch.as_tensor(spec.tensor(block[spec.name])) for spec in layout.tensors}
    for spec in layout.sequences:
        inputs[spec.name], inputs["lengths"] = padded(block[spec.name], spec)
    return inputs


def _read(group: RowGroup, spec: FeatureSpec, footers: FooterCache) -> pa.Table:
    """Keys and inputs of one row group; a column that is both is read once."""
    columns = [*spec.keys, *spec.feature_columns]
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
    job: Job, spec: FeatureSpec, rows: pa.Table, predicted: Mapping[str, pa.Array]
) -> pa.Table:
    """The rows as `predictions` keeps them, partition columns left out."""
    schema = without(job.schema, job.partition_by)
    constants = {
        "spec_hash": spec.hash,
        "source_version": job.source_version,
        "scored_at": job.scored_at_us,
    }
    arrays = [rows[key].cast(schema.field(key).type) for key in spec.keys]
    arrays += predicted.values()
    for name, value in constants.items():
        scalar = pa.scalar(value, schema.field(name).type)
        arrays.append(pa.repeat(scalar, rows.num_rows))
    return pa.Table.from_arrays(arrays, schema=schema)
