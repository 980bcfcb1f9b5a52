"""From the features of a split to the tensors of a step: always by the stream, never around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.features.spec import FeatureSpec
from pipeline.stream import Batch, BatchLayout, Stream

EVALUATION_ROWS_PER_BATCH = 16_384
"""Enough rows to keep the processor busy; without gradients the memory is small."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One batch on the device."""

    numeric: Tensor
    """float32 [rows, n]."""
    categorical: Tensor
    """int32 [rows, c]."""
    labels: Tensor
    """float32 [rows], 0 or 1."""


def layout_of(spec: FeatureSpec, *, with_label: bool = True) -> BatchLayout:
    """What a network of this spec asks of the stream; scoring asks for no label."""
    matrices = {"numeric": spec.numeric_columns, "categorical": spec.categorical_columns}
    return BatchLayout(
        matrices={name: columns for name, columns in matrices.items() if columns},
        scalars={"label": spec.label_column} if with_label else {},
    )


def inputs(batch: Batch, device: torch.device) -> Inputs:
    """Moves a batch to the device; a matrix that the spec has no columns for is of width 0."""
    tensors = batch.tensors
    numeric = tensors.get("numeric", torch.empty((batch.rows, 0), dtype=torch.float32))
    categorical = tensors.get("categorical", torch.empty((batch.rows, 0), dtype=torch.int32))
    return Inputs(
        numeric=numeric.to(device),
        categorical=categorical.to(device),
        labels=tensors["label"].to(device),
    )


def evaluation_stream(files: Sequence[str], spec: FeatureSpec, workers_count: int) -> Stream:
    """All rows of some files once, in the files' order.

    Args:
        files: Absolute Parquet files with the columns of the spec.
        spec: What the columns mean.
        workers_count: Threads that read row groups.
    """
    return Stream(
        files,
        layout_of(spec),
        rows_per_batch=EVALUATION_ROWS_PER_BATCH,
        seed=0,
        shuffle=False,
        workers_count=workers_count,
    )
