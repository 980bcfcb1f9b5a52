"""Row groups of Parquet, through Petastorm, to dense torch batches.

    footers.py  reads row counts and types, once a file
    layout.py   which columns become which tensors
    plan.py     which rows come in which step, on which rank
    reader.py   Petastorm's reader over the plan's items:
                ventilator -> pool.py (threads) -> worker.py (row group to arrays)
    batches.py  shuffle windows, batches
    stream.py   the one class to use

`bridge.py` and `legacy/` let Petastorm itself run on current pyarrow and NumPy; importing anything
of this package loads them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# First of all: the modules here import Petastorm, which needs the bridge.
from pipeline.stream import bridge  # noqa: F401

if TYPE_CHECKING:
    from pipeline.stream.batches import Batch
    from pipeline.stream.footers import RowGroup, row_groups_of
    from pipeline.stream.layout import BatchLayout
    from pipeline.stream.stream import Stream

__all__ = ["Batch", "BatchLayout", "RowGroup", "Stream", "row_groups_of"]

_HOMES = {
    "Batch": "pipeline.stream.batches",
    "BatchLayout": "pipeline.stream.layout",
    "RowGroup": "pipeline.stream.footers",
    "Stream": "pipeline.stream.stream",
    "row_groups_of": "pipeline.stream.footers",
}


def __getattr__(name: str) -> Any:
    """Imports a name on first use: Spark's executors load the bridge, and need no torch for it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
