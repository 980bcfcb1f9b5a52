"""A recurrent layer step by step: what torch.export can keep as a loop of any length.

torch's own GRU and LSTM are unrolled by export, for one length, with a piece of graph a step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Scanned(nn.Module):
    """Says what a GRU or an LSTM in evaluation mode says; its states are not told.

    Args:
        recurrent: `batch_first`, forward only; its weights are used.

    Source: the equations in the documentation of torch.nn.GRU and torch.nn.LSTM.
    """

    def __init__(self, recurrent: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, steps: Tensor) -> tuple[Tensor, None]:
        """Maps float [rows, steps, width] to float [rows, steps, units]."""
        # [rows, steps, width] -> [steps, rows, width]
        said = steps.transpose(0, 1)
        units = self.recurrent.hidden_size
        for layer in range(self.recurrent.num_layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [getattr(self.recurrent, f"{name}_l{layer}") for name in names]
            given = functional.linear(said, weights[0], weights[2])
            is_gru = isinstance(self.recurrent, nn.GRU)
            step = _gru(weights[1], weights[3]) if is_gru else _lstm(weights[1], weights[3])
            begin = given.new_zeros(given.shape[1], units if is_gru else 2 * units)
            _, said = scan(step, begin, given)
        return said.transpose(0, 1), None


def _gru(weight: Tensor, bias: Tensor) -> Step:
    def step(state: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        reset_in, update_in, new_in = given.chunk(3, 1)
        reset_own, update_own, new_own = functional.linear(state, weight, bias).chunk(3, 1)
        reset = torch.sigmoid(reset_in + reset_own)
        update = torch.sigmoid(update_in + update_own)
        new = torch.tanh(new_in + reset * new_own)
        state = new + update * (state - new)
        return state, state.clone()

    return step


def _lstm(weight: Tensor, bias: Tensor) -> Step:
    def step(state: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        said, cell = state.chunk(2, 1)
        gates = given + functional.linear(said, weight, bias)
        enter, forget, new, tell = gates.chunk(4, 1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        said = torch.sigmoid(tell) * torch.tanh(cell)
        return torch.cat([said, cell], 1), said.clone()

    return step
