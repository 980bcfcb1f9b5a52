"""From the features of a split to the tensors of a step: always by the stream, never around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.features.kinds import (
    CATEGORICAL,
    NUMERIC,
    FeatureColumn,
    Id,
    Image,
    Number,
    Sequence,
    Vector,
    lengths_names,
    tensor_names,
)
from pipeline.features.spec import FeatureSpec
from pipeline.stream import Batch, BatchLayout, Stream
from pipeline.stream.codecs import Codec, ImageCodec, RawCodec
from pipeline.stream.layout import SequenceColumn, TensorColumn
from pipeline.training.networks import Input, Shapes
from pipeline.training.ranks import Ranks

_WIDE_EVALUATION_ROWS = 4_096
_EVALUATION_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One rank's part of a batch, on the device."""

    inputs: dict[str, Tensor]
    """What a network is given, see `pipeline.training.networks`."""
    labels: Tensor | None
    """float32 [rows] of 0 and 1 or of values, int32 [rows] of classes, float32 [rows, labels]."""
    weights: Tensor | None = None
    """float32 [rows], what each row counts in the loss; None where all count the same."""
    rows: int

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device."""
        return Rows(
            inputs={name: tensor.to(device) for name, tensor in self.inputs.items()},
            labels=None if self.labels is None else self.labels.to(device),
            weights=None if self.weights is None else self.weights.to(device),
            rows=self.rows,
        )

    def pieces(self, count: int) -> list[Rows]:
        """The rows in at most `count` parts of about equal length; an empty part for no row."""
        if count == 1 or self.rows < 2:
            return [self]
        size = -(-self.rows // count)
        return [
            Rows(
                inputs={name: tensor[begin : begin + size] for name, tensor in self.inputs.items()},
                labels=None if self.labels is None else self.labels[begin : begin + size],
                weights=None if self.weights is None else self.weights[begin : begin + size],
                rows=min(size, self.rows - begin),
            )
            for begin in range(0, self.rows, size)
        ]


def shapes_of(spec: FeatureSpec) -> Shapes:
    """What a network of this spec is given for a row."""
    names = tensor_names(spec.columns)
    own = [column for column in spec.columns if not isinstance(column, Number | Id)]
    return Shapes.of(
        numeric=len(spec.numeric_columns),
        cardinalities=spec.cardinalities,
        named={names[column.name]: _input(column) for column in own},
    )


def _input(column: FeatureColumn) -> Input:
    """A column that has a tensor of its own, as a network is told of it."""
    if isinstance(column, Image):
        return Input(form="image", shape=column.shape)
    if isinstance(column, Vector):
        return Input(form="vector", shape=(column.width,))
    assert isinstance(column, Sequence)  # noqa: S101 - for mypy: there are five forms
    width = (column.width,) if column.width > 1 else ()
    return Input(form="sequence", shape=width, ids=column.ids, ordered=column.ordered)


def layout_of(
    spec: FeatureSpec,
    *,
    with_label: bool = True,
    with_weight: bool = False,
    missing: Iterable[str] = (),
) -> BatchLayout:
    """What a network of this spec asks of the stream.

    Args:
        spec: What the columns mean.
        with_label: Whether the label comes along; scoring asks for none.
        with_weight: Whether rows' weights come along, if there are any; only training asks.
        missing: Those of `spec.missing_columns` that come along, as tensors of the same name.
    """
    labels = spec.label_columns if with_label else ()
    several = spec.label.definition.label_is_matrix
    weights = spec.weight_columns if with_weight else ()
    names = tensor_names(spec.columns)
    matrices = {
        NUMERIC: spec.numeric_columns,
        CATEGORICAL: spec.categorical_columns,
        "label": labels if several else (),
    }
    return BatchLayout(
        matrices={name: columns for name, columns in matrices.items() if columns},
        scalars={
            **({"label": labels[0]} if labels and not several else {}),
            **dict(zip(("weight",), weights, strict=False)),
            **{name: name for name in missing},
        },
        tensors={
            **{names[image.name]: _decoded(image) for image in spec.columns_of(Image)},
            **{
                names[vector.name]: TensorColumn(column=vector.name, shape=(vector.width,))
                for vector in spec.columns_of(Vector)
            },
        },
        sequences={
            names[sequence.name]: SequenceColumn(column=sequence.name, width=sequence.width)
            for sequence in spec.columns_of(Sequence)
        },
    )


def _decoded(image: Image) -> TensorColumn:
    shape, bytes_type = image.shape, np.dtype(np.uint8)
    codec: Codec = (
        RawCodec(shape=shape, dtype=bytes_type)
        if image.encoding == "raw"
        else ImageCodec(shape=shape, dtype=bytes_type, format=image.encoding)
    )
    return TensorColumn(column=image.name, shape=shape, codec=codec)


def rows_of(batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> Rows:
    """Moves a batch to the device.

    Args:
        batch: Of a stream with the layout of `layout_of`.
        device: Where to.
        dtype: Of the network's weights; float inputs are cast to it.
    """
    tensors = dict(batch.tensors)
    labels, weights = tensors.pop("label", None), tensors.pop("weight", None)
    tensors |= named_lengths(batch.lengths)
    rows = Rows(inputs=tensors, labels=labels, weights=weights, rows=batch.rows).to(device)
    return replace(rows, inputs=cast(rows.inputs, dtype))


def named_lengths(lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lengths by sequence -> lengths by the network's inputs that hold them."""
    names = lengths_names(lengths)
    return {names[sequence]: tensor for sequence, tensor in lengths.items()}


def cast(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The inputs with their floats in another type; ids, images and lengths stay as they are."""
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }


def evaluation_rows(spec: FeatureSpec) -> int:
    """Rows that go through a network at once where no gradient is asked for.

    Enough to keep a processor busy; between the layers of a network on images or sequences a row
    takes up to a megabyte.
    """
    is_large = any(isinstance(column, Image | Sequence) for column in spec.columns)
    return _EVALUATION_ROWS if is_large else _WIDE_EVALUATION_ROWS


def evaluation_stream(
    files: Iterable[str],
    spec: FeatureSpec,
    workers_count: int,
    ranks: Ranks | None = None,
    missing: Iterable[str] = (),
) -> Stream:
    """All rows of some files once, over all ranks, in the files' order.

    Args:
        files: Absolute Parquet files with the columns of the spec.
        spec: What the columns mean.
        workers_count: Threads that read row groups.
        ranks: Who reads together.
        missing: Those of `spec.missing_columns` that come along, for histograms.
    """
    ranks = ranks or Ranks()
    return Stream(
        list(files),
        layout_of(spec, missing=missing),
        rows_per_rank_batch=evaluation_rows(spec),
        rank=ranks.rank,
        world_size=ranks.world_size,
        shuffle=False,
        workers_count=workers_count,
    )
