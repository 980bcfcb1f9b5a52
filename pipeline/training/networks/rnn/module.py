"""A recurrent layer over tokens or a series of numbers."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from pipeline.training.networks import rnn
from pipeline.training.networks.dense import Columns, beside, dense_layers, weights_type
from pipeline.training.networks.module import NetworkModule
from pipeline.training.networks.shapes import Shapes


class Rnn(NetworkModule):
    """GRU or LSTM, then what it said at the row's end and its maximum over the row.

    It runs forward only, over the padded batch: what stands behind a row's end comes too late to
    change what is taken of it, so that a row's outputs do not depend on the rows beside it.

    Source: Cho et al., https://arxiv.org/abs/1406.1078 (GRU); Hochreiter and Schmidhuber, Long
    short-term memory, 1997, https://doi.org/10.1162/neco.1997.9.8.1735 (LSTM).
    """

    def __init__(self, shapes: Shapes, outputs: int, settings: rnn.Rnn) -> None:
        super().__init__()
        [(self.sequence, steps)] = shapes.ordered.items()
        self.lengths = shapes.lengths[self.sequence]
        self.tokens = (
            nn.Embedding(steps.ids, settings.token_dimension, padding_idx=0) if steps.ids else None
        )
        cell = nn.GRU if settings.cell == "gru" else nn.LSTM
        self.recurrent = cell(
            settings.token_dimension if steps.ids else math.prod(steps.shape),
            settings.units,
            num_layers=settings.layers,
            batch_first=True,
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.columns = Columns(shapes, settings.embedding_dimension)
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = dense_layers(
            2 * settings.units + self.columns.width,
            settings.hidden,
            outputs,
            settings.activation,
            settings.dropout,
        )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Maps the inputs to outputs, float [rows, outputs]."""
        # [rows, longest] or [rows, longest, width of a step] -> [rows, longest, width of a step]
        steps = inputs[self.sequence]
        if self.tokens is not None:
            steps = self.tokens(steps)
        elif steps.ndim == 2:
            steps = steps.unsqueeze(2)
        # One step more than there is: a batch of empty rows has none, and no gradient otherwise.
        steps = nn.functional.pad(steps, (0, 0, 0, 1))
        said = self._recur(steps)
        parts = [*_ends(said, inputs[self.lengths]), *self.columns.parts(inputs)]
        outputs: Tensor = self.layers(self.dropout(beside(parts)))
        return outputs

    def _recur(self, steps: Tensor) -> Tensor:
        """Float [rows, steps, width] to [rows, steps, units]."""
        said: Tensor
        if steps.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Not every processor has an LSTM in bfloat16.
            with torch.autocast("cpu", enabled=False):
                said, _ = self.recurrent(steps.to(weights_type(self)))
        else:
            said, _ = self.recurrent(steps)
        return said

    def exportable(self) -> nn.Module:
        """A copy whose recurrent layer export can keep."""
        # Imported only here: it needs a part of torch that may move.
        from pipeline.training.networks.rnn.scanned import Scanned

        module = copy.deepcopy(self)
        module.recurrent = Scanned(module.recurrent)  # type: ignore[assignment]
        return module


def _ends(said: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """What was said at each row's last step, and the maximum over its steps; 0 for an empty row.

    Args:
        said: Float [rows, steps, units].
        lengths: int64 [rows].
    """
    # [rows, steps, 1], true where a step belongs to the row
    valid = (torch.arange(said.shape[1], device=said.device) < lengths.unsqueeze(1)).unsqueeze(2)
    last = (lengths - 1).clamp(min=0)
    # [rows] -> [rows, 1, units] -> [rows, units]
    at_end = said.gather(1, last.reshape(-1, 1, 1).expand(-1, 1, said.shape[2])).squeeze(1)
    highest = said.masked_fill(~valid, -torch.inf).amax(1)
    empty = (lengths == 0).unsqueeze(1)
    return at_end.masked_fill(empty, 0), highest.masked_fill(empty, 0)


NETWORK = Rnn
