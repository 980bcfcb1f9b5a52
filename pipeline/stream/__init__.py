"""Row groups of Parquet, through Petastorm, to dense torch batches.

    read_ahead.py              bytes of remote files before they are asked for; ../stores opens them
    footers.py                 row counts and types, once a file
    layout.py, codecs.py       which columns become which tensors; unischema.py: Petastorm's say so
    plan.py                    which rows come in which step, on which rank
    reader.py                  Petastorm's reader over the plan's items:
                               ventilator -> pool.py (threads) -> worker.py
    fetch.py, decode.py        a row group's block: out of cache.py, or decoded
    windows.py                 rows from row groups' order to delivery's
    batches.py                 windows to batches
    origins.py                 which row groups a step's rows are from
    epoch.py, stream.py        one epoch; the one class to use

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
    from pipeline.stream.cache import CacheSettings
    from pipeline.stream.codecs import ArrayCodec, ImageCodec, RawCodec
    from pipeline.stream.footers import RowGroup, row_groups_of
    from pipeline.stream.layout import BatchLayout, SequenceColumn, TensorColumn
    from pipeline.stream.origins import Origin
    from pipeline.stream.stream import Stream
    from pipeline.stream.unischema import PetastormDataset

__all__ = [
    "ArrayCodec",
    "Batch",
    "BatchLayout",
    "CacheSettings",
    "ImageCodec",
    "Origin",
    "PetastormDataset",
    "RawCodec",
    "RowGroup",
    "SequenceColumn",
    "Stream",
    "TensorColumn",
    "row_groups_of",
]

_HOMES = {
    "ArrayCodec": "pipeline.stream.codecs",
    "Batch": "pipeline.stream.batches",
    "BatchLayout": "pipeline.stream.layout",
    "CacheSettings": "pipeline.stream.cache",
    "ImageCodec": "pipeline.stream.codecs",
    "Origin": "pipeline.stream.origins",
    "PetastormDataset": "pipeline.stream.unischema",
    "RawCodec": "pipeline.stream.codecs",
    "RowGroup": "pipeline.stream.footers",
    "SequenceColumn": "pipeline.stream.layout",
    "Stream": "pipeline.stream.stream",
    "TensorColumn": "pipeline.stream.layout",
    "row_groups_of": "pipeline.stream.footers",
}


def __getattr__(name: str) -> Any:
    """Imports a name on first use: Spark's executors load the bridge, and need no torch for it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
