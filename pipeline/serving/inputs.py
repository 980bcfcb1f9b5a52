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


class NetworkInputs:
    """Makes the inputs of a network.

    Args:
        spec: What the columns of features mean.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._names = tensor_names(spec.columns)
        layout = layout_of(spec, with_label=False)
        self._matrices = layout.matrices
        self._vectors = spec.columns_of(Vector)
        self._images = [
            (image, layout.tensors[self._names[image.name]]) for image in spec.columns_of(Image)
        ]
        self._sequences = [
            SequenceSpec(
                self._names[column.name],
                column.name,
                np.dtype(np.int32 if column.ids else np.float32),
                0,
                None,
                column.width,
            )
            for column in spec.columns_of(Sequence)
        ]

    def of(self, features: pa.Table) -> dict[str, Tensor]:
        """The inputs, see `pipeline.training.networks`.

        Args:
            features: `spec.columns` [rows].
        """
        # [columns, rows] -> [rows, columns]
        inputs = {
            name: torch.from_numpy(np.stack([features[c].to_numpy() for c in columns])).T
            for name, columns in self._matrices.items()
        }
        for vector in self._vectors:
            flat = features[vector.name].combine_chunks().flatten().to_numpy()
            # [rows * width] -> [rows, width]
            rows = flat.reshape(-1, vector.width).copy()
            inputs[self._names[vector.name]] = torch.from_numpy(rows)
        for image, asked in self._images:
            stored = features[image.name].combine_chunks()
            inputs[self._names[image.name]] = _decoded(image, stored, asked)
        lengths = {}
        for sequence in self._sequences:
            lists = features[sequence.column].combine_chunks()
            inputs[sequence.name], lengths[sequence.name] = padded(lists, sequence)
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
