"""Feature columns in Arrow to the tensors that a network is given, as the stream makes them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.errors import LakestormError, RowError
from pipeline.features.kinds import Image, Sequence, Vector, tensor_names
from pipeline.features.spec import FeatureSpec
from pipeline.stream.batches import padded
from pipeline.stream.layout import SequenceSpec, TensorColumn
from pipeline.training.splits import layout_of, named_lengths


def network_inputs(spec: FeatureSpec, features: pa.Table) -> dict[str, Tensor]:
    """The inputs of a network.

    Args:
        spec: What the columns mean.
        features: `spec.columns` [rows].

    Returns:
        See `pipeline.training.networks`.
    """
    names = tensor_names(spec.columns)
    layout = layout_of(spec, with_label=False)
    inputs = {
        name: torch.from_numpy(np.stack([features[c].to_numpy() for c in columns])).T
        for name, columns in layout.matrices.items()
    }
    for vector in spec.columns_of(Vector):
        flat = features[vector.name].combine_chunks().flatten().to_numpy()
        # [rows * width] -> [rows, width]
        inputs[names[vector.name]] = torch.from_numpy(flat.reshape(-1, vector.width).copy())
    for image in spec.columns_of(Image):
        stored = features[image.name].combine_chunks()
        inputs[names[image.name]] = _decoded(image, stored, layout.tensors[names[image.name]])
    lengths = {}
    for sequence in spec.columns_of(Sequence):
        name = names[sequence.name]
        lists = features[sequence.name].combine_chunks()
        dtype = np.dtype(np.int32 if sequence.ids else np.float32)
        how = SequenceSpec(name, sequence.name, dtype, 0, None, sequence.width)
        inputs[name], lengths[name] = padded(lists, how)
    return inputs | named_lengths(lengths)


def _decoded(image: Image, stored: pa.Array, asked: TensorColumn) -> Tensor:
    """Pictures as uint8 [rows, *shape].

    Raises:
        RowError: One is null, or is no picture of that shape.
    """
    assert asked.codec is not None  # noqa: S101 - for mypy: all images have one
    try:
        found = asked.codec.decode(stored, f"field {image.source}")
    except LakestormError as error:
        raise RowError(f"field {image.source}", error.problem, error.remedy) from error
    # [rows, *shape]
    return torch.from_numpy(np.ascontiguousarray(found))
