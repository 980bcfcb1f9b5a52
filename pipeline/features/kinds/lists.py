"""Arrow arrays of lists: their ends."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.features.kinds.values import Floats, floats


def ends_of(lists: pa.Array, longest: int) -> pa.ListArray:
    """The last `longest` values of each list; none for null.

    Args:
        lists: A list array [rows], of any of Arrow's list types.
        longest: Values to keep.

    Returns:
        Lists without null lists, whose `offsets` begin at 0 and whose `values` hold nothing else.
    """
    begins, ends = _bounds(lists)
    return _taken(lists, np.maximum(begins, ends - longest), ends)


def _bounds(lists: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Where each list begins and ends among the flattened values, int64 [rows]."""
    lengths = np.array(lists.value_lengths().fill_null(0), np.int64)
    ends = np.cumsum(lengths)
    return ends - lengths, ends


def _taken(lists: pa.Array, begins: np.ndarray, ends: np.ndarray) -> pa.ListArray:
    lengths = ends - begins
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    # [rows] -> [values kept]: begin of the list, plus the place in it
    places = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
    # `flatten` leaves out what lies beneath null lists.
    return pa.ListArray.from_arrays(pa.array(offsets), lists.flatten().take(pa.array(places)))


def lists_of(table: Floats) -> pa.ListArray:
    """Lists of one length as the `array<float>` column that Spark's cast makes of doubles.

    Args:
        table: Doubles [rows, width].
    """
    rows, width = table.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    # [rows, width] -> [rows * width]
    return pa.ListArray.from_arrays(offsets, floats(table.reshape(-1)))
