"""What runs on an executor: row groups in, a Parquet file a model out, a message for the commit.

In the same pass the values that come by are counted, see `pipeline/training/histograms.py`.
"""

from __future__ import annotations

import gc
import hashlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark import TaskContext
from torch import Tensor

from pipeline.config import TaskName
from pipeline.errors import ScoringError
from pipeline.features.kinds import register
from pipeline.features.spec import FeatureSpec
from pipeline.lake import DataFile, data_file
from pipeline.lake.files import partition_folder
from pipeline.lake.schema import without
from pipeline.scoring.models import Scorer
from pipeline.scoring.plan import ScoreTask
from pipeline.stores.folder import Folder
from pipeline.stores.reading import open_file
from pipeline.stream import RowGroup
from pipeline.stream.batches import padded
from pipeline.stream.decode import OpenFile, decode
from pipeline.stream.footers import FooterCache, read_footers
from pipeline.stream.layout import ResolvedLayout, resolve
from pipeline.training.bundle import Bundle, load_bundle, save_bundle
from pipeline.training.histograms import Histograms, Tally, input_columns, score_columns
from pipeline.training.networks import folded, weights_device, weights_type
from pipeline.training.objective import objective_of
from pipeline.training.splits import Rows, cast, evaluation_rows, layout_of, named_lengths
from pipeline.training.tasks import TASKS

CONSTANTS = ("spec_hash", "source_version", "scored_at")
"""Columns that are the same in all rows of a run."""


@dataclass(frozen=True)
class PackedModel:
    """A model's files, small enough to travel to executors with the job."""

    name: str
    version: int
    digest: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Target:
    """A model, and where its predictions go."""

    model: PackedModel
    attempt: str
    """Folder of the write attempt, relative to the table."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all tasks of one scoring run share."""

    targets: tuple[Target, ...]
    """Of models of the same spec."""
    source_version: int
    scored_at_us: int
    """Microseconds since 1970, UTC; one for the run."""
    table: Folder
    schema: pa.Schema
    """Of `predictions`, partition columns included."""
    partition_by: tuple[str, ...]
    period_column: str
    custom: str | None
    """The user's own network, which no artifact names."""
    kinds: str | None
    """The module of the user's own kinds of features, which no artifact names."""
    missing: tuple[str, ...]
    """Columns of the features that tell what was missing; none where the table is too old."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one task did: files, and how often which values came by."""

    files: tuple[DataFile, ...]
    """One a target."""
    inputs: Histograms
    scores: tuple[Histograms, ...]
    """One a target."""


def score_tasks(job: Job, tasks: Iterator[ScoreTask]) -> Iterator[Scored]:
    """Scores each task into a file of its own for each model; for `mapPartitions`.

    An attempt that fails, or a speculative twin, leaves files that nobody commits: names are new
    each time, and only the messages that reach the driver are committed, and counted.
    """
    # One task has one core; more threads would stand in each other's way.
    torch.set_num_threads(1)
    _spare_collector()
    register(job.kinds)
    bundles = _loaded([target.model for target in job.targets], job.custom)
    device = _device()
    for bundle in bundles:
        bundle.module.to(device)
    for task in tasks:
        yield _score(job, bundles, task)


def pack(scorer: Scorer) -> PackedModel:
    """The files of a model, as bytes that travel with the job."""
    bundle = scorer.bundle
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder), bundle.module.state_dict(), bundle.facts, bundle.spec)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    return PackedModel(scorer.name, scorer.version, digest.hexdigest(), files)


def _device() -> torch.device:
    """A GPU where the executor has one: the one that Spark gave this task, or the first."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    context = TaskContext.get()
    given = context.resources().get("gpu") if context else None
    # An address counts the host's GPUs; a container may see only some, numbered from 0 on.
    number = int(given.addresses[0]) if given else 0
    return torch.device("cuda", number % torch.cuda.device_count())


@cache
def _spare_collector() -> None:
    """Takes what was imported out of the garbage collection that Spark does after every task.

    It goes through torch's hundreds of thousands of objects: a fifth of a second each time.
    """
    if TaskContext.get() is not None:  # a process of Spark's, which runs nothing but tasks
        gc.freeze()


# One Python worker scores many tasks; it loads each model once.
_LOADED: dict[str, Bundle] = {}


def _loaded(models: Sequence[PackedModel], custom: str | None) -> list[Bundle]:
    for digest in _LOADED.keys() - {model.digest for model in models}:
        del _LOADED[digest]
    for model in models:
        if model.digest not in _LOADED:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in model.files.items():
                    (Path(folder) / name).write_bytes(content)
                bundle = load_bundle(Path(folder), custom)
            # The multiplications that folding saves cost a GPU next to nothing.
            if not torch.cuda.is_available():
                bundle = replace(bundle, module=folded(bundle.module))
            _LOADED[model.digest] = bundle
    return [_LOADED[model.digest] for model in models]


def _score(job: Job, bundles: Sequence[Bundle], task: ScoreTask) -> Scored:
    spec = bundles[0].spec
    files = sorted({group.file for group in task.row_groups})
    footers = FooterCache()
    asked = layout_of(spec, with_label=False, missing=job.missing)
    layout = resolve(asked, read_footers(files, footers))
    paths = [_new_path(job, target, task) for target in job.targets]
    came = Tally(input_columns(spec), spec.imputed_columns if job.missing else ())
    said = [Tally(score_columns(*bundle.facts.outputs)) for bundle in bundles]
    with ExitStack() as stack:
        outs = [stack.enter_context(_writer(job, path)) for path in paths]
        for file, groups in groupby(task.row_groups, key=lambda group: group.file):
            with _opened(file, footers) as opened:
                for group in groups:
                    keys, inputs = _read(opened, group, spec, layout)
                    came.add(inputs, group.rows)
                    given = {name: inputs[name] for name in inputs.keys() - {*job.missing}}
                    for bundle, out, tally in zip(bundles, outs, said, strict=True):
                        outputs = predict(bundle, given, group.rows)
                        tally.add(outputs, group.rows)
                        out.write_table(
                            _predictions(job, bundle, keys, prediction_arrays(bundle, outputs))
                        )
    return Scored(
        files=tuple(data_file(job.table, path, job.schema, job.partition_by) for path in paths),
        inputs=came.histograms(),
        scores=tuple(tally.histograms() for tally in said),
    )


def _new_path(job: Job, target: Target, task: ScoreTask) -> str:
    partition = {
        "model_name": target.model.name,
        "model_version": str(target.model.version),
        job.period_column: task.period,
    }
    return f"{target.attempt}/{partition_folder(partition)}/{uuid.uuid4().hex}.parquet"


@contextmanager
def _writer(job: Job, path: str) -> Iterator[pq.ParquetWriter]:
    schema = without(job.schema, job.partition_by)
    with (
        job.table.create(path) as file,
        # Only constants gain by a dictionary.
        pq.ParquetWriter(file, schema, use_dictionary=list(CONSTANTS)) as writer,
    ):
        yield writer


def predict(bundle: Bundle, inputs: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """What a model says of some rows.

    Args:
        bundle: The model, on any device.
        inputs: What its network is given, each [rows, ...], on the CPU.
        rows: How many.

    Returns:
        What `Task.predictions` has, each [rows] or [rows, several], on the CPU.
    """
    objective = objective_of(bundle)
    dtype, device = weights_type(bundle.module), weights_device(bundle.module)
    whole = Rows(inputs=cast(inputs, dtype), labels=None, rows=rows)
    with torch.inference_mode():
        # A piece at a time is on the device: its memory need not hold a row group.
        pieces = [
            objective.predictions(bundle.module(piece.inputs), piece)
            for piece in (
                part.to(device)
                for part in whole.pieces(-(-rows // evaluation_rows(bundle.spec)) or 1)
            )
        ]
    return {name: torch.cat([piece[name].cpu() for piece in pieces]) for name in pieces[0]}


def prediction_arrays(bundle: Bundle, outputs: Mapping[str, Tensor]) -> dict[str, pa.Array]:
    """What a model says as columns of `predictions`."""
    return {
        name: _column(outputs[name], bundle.facts.classes if pa.types.is_string(kind) else None)
        for name, kind in prediction_columns(bundle.facts.task).items()
    }


def prediction_columns(task: TaskName) -> dict[str, pa.DataType]:
    """Columns of `predictions` that hold what a model of that task says; others differ not."""
    return TASKS[task].prediction_columns()


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


@contextmanager
def _opened(file: str, footers: FooterCache) -> Iterator[OpenFile]:
    try:
        with closing(OpenFile(open_file(file), footers.get(file))) as opened:
            yield opened
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error


def _read(
    file: OpenFile, group: RowGroup, spec: FeatureSpec, layout: ResolvedLayout
) -> tuple[pa.Table, dict[str, Tensor]]:
    """Keys of one row group, and what the network is given."""
    where = f"{group.file}, row group {group.index}"
    try:
        keys = file.reader.read_row_group(group.index, columns=list(spec.keys), use_threads=False)
        block = decode(file, group.index, layout, where)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(where, error) from error
    # Lists of one length are views of Arrow's memory, which torch does not take for its own.
    arrays = {each.name: each.tensor(block[each.name]) for each in layout.tensors}
    inputs = {
        name: torch.as_tensor(np.require(array, requirements="W")) for name, array in arrays.items()
    }
    lengths = {}
    for sequence in layout.sequences:
        inputs[sequence.name], lengths[sequence.name] = padded(block[sequence.name], sequence)
    inputs |= named_lengths(lengths)
    _refuse_strange_ids(inputs, spec, where)
    return keys, inputs


def _refuse_strange_ids(inputs: Mapping[str, Tensor], spec: FeatureSpec, where: str) -> None:
    """Refuses ids that no vocabulary gave out: a network would look up another one's embedding."""
    if "categorical" not in inputs or not len(inputs["categorical"]):
        return
    least, greatest = inputs["categorical"].aminmax(dim=0)
    for name, size, low, high in zip(
        spec.categorical_columns, spec.cardinalities, least.tolist(), greatest.tolist(), strict=True
    ):
        if low < 0 or high >= size:
            raise ScoringError(
                f"file {where}, column {name}",
                f"holds the id {low if low < 0 else high}, but its vocabulary ends at {size - 1}",
                "Run featurize again; nothing was committed.",
            )


def _unreadable(where: str, error: Exception) -> ScoringError:
    return ScoringError(
        f"file {where}", f"cannot be read: {error}", "Run featurize again; nothing was committed."
    )


def _predictions(
    job: Job, bundle: Bundle, keys: pa.Table, predicted: Mapping[str, pa.Array]
) -> pa.Table:
    """The rows as `predictions` keeps them, partition columns left out."""
    schema = without(job.schema, job.partition_by)
    arrays = [keys[key].cast(schema.field(key).type) for key in bundle.spec.keys]
    arrays += predicted.values()
    for name, value in zip(
        CONSTANTS, (bundle.facts.spec_hash, job.source_version, job.scored_at_us), strict=True
    ):
        scalar = pa.scalar(value, schema.field(name).type)
        arrays.append(pa.repeat(scalar, keys.num_rows))
    return pa.Table.from_arrays(arrays, schema=schema)
