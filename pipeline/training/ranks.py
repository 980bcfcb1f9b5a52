"""The processes that train together: what each knows of the others, and how they agree.

Source: torch.distributed, https://docs.pytorch.org/docs/stable/distributed.html; gloo on CPUs,
nccl on GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

STORE = "LAKESTORM_RANKS_STORE"
"""Environment variable: the file in which the ranks of one machine find each other."""
_START_SECONDS = 300
"""That the ranks of a busy machine may differ by in their start."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes what is written once."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """The sum of each value over all ranks; every rank must ask."""
        if self.world_size == 1:
            return values
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(totals)
        summed: list[float] = totals.tolist()
        return summed

    def any(self, condition: bool) -> bool:
        """Whether a condition holds on any rank; every rank must ask."""
        return self.sum([float(condition)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """A value of each rank, in their order; every rank must ask."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def gather_rows(self, own: Tensor | None) -> Tensor | None:
        """The rows of all ranks, one rank's after the other's; every rank must ask.

        Args:
            own: [rows, k] on the CPU; None where this rank had no batch at all.

        Returns:
            [rows of all ranks, k]; None where no rank had any.
        """
        if self.world_size == 1:
            return own
        parts = [part for part in self.gather(own) if part is not None]
        return torch.cat(parts) if parts else None


@contextmanager
def joined(device: torch.device, hang_seconds: float) -> Iterator[Ranks]:
    """Joins the processes that torchrun started together with this one.

    Args:
        device: Where this rank computes.
        hang_seconds: After which a rank is ended that makes no progress, see `Watch`; an exchange
            that takes longer by the time processes need to start is an error.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks(device=device)
        return
    store = os.environ.get(STORE)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{store}" if store else "env://",
        rank=int(os.environ["RANK"]),
        world_size=world_size,
        timeout=timedelta(seconds=hang_seconds + _START_SECONDS),
    )
    try:
        yield Ranks(
            rank=distributed.get_rank(), world_size=distributed.get_world_size(), device=device
        )
    finally:
        distributed.destroy_process_group()
