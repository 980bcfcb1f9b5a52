"""Whether two columns hold the same values, bit for bit or within some units in the last place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rows = npt.NDArray[np.int64]


def unlike_rows(one: pa.ChunkedArray, other: pa.ChunkedArray, ulps: int = 0) -> Rows:
    """Rows, ascending, where two columns of one type are not the same.

    Args:
        one: A column [rows].
        other: Another one.
        ulps: How far floats may lie apart, in units in the last place. NaN equals NaN.
    """
    left, right = one.combine_chunks(), other.combine_chunks()
    if pa.types.is_floating(left.type):
        return np.flatnonzero(apart(left, right) > ulps)
    if pa.types.is_list(left.type) and pa.types.is_floating(left.type.value_type):
        return _unlike_lists(left, right, ulps)
    pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
    return np.flatnonzero(np.array([repr(a) != repr(b) for a, b in pairs], bool))


def _unlike_lists(left: pa.ListArray, right: pa.ListArray, ulps: int) -> Rows:
    lengths = _lengths(left, right)
    if (lengths[0] != lengths[1]).any():
        return np.flatnonzero(lengths[0] != lengths[1])
    differ = apart(left.flatten(), right.flatten()) > ulps
    # [values] -> [rows], by the row that each value belongs to
    return np.unique(np.repeat(np.arange(len(left)), np.maximum(lengths[0], 0))[differ])


def _lengths(*lists: pa.ListArray) -> list[npt.NDArray[np.int32]]:
    """The length of each list [rows]; -1 for null."""
    return [np.array(each.value_lengths().fill_null(-1)) for each in lists]


def apart(left: pa.Array, right: pa.Array) -> npt.NDArray[np.uint64]:
    """How many units in the last place lie between floats of one type [values].

    NaN equals NaN and null equals null; a value and none are as far apart as can be.
    """
    kind, top = (
        (np.uint32, np.uint32(1 << 31))
        if left.type == pa.float32()
        else (np.uint64, np.uint64(1 << 63))
    )
    nulls = [np.array(each.is_null()) for each in (left, right)]
    values = [each.fill_null(0).to_numpy(zero_copy_only=False) for each in (left, right)]
    bits = [each.view(kind) for each in values]
    # In the order of the numbers: the bits of negative ones run backwards, below all others.
    ordered = [np.where(each & top, ~each, each | top) for each in bits]
    distance: npt.NDArray[np.uint64] = np.maximum(*ordered) - np.minimum(*ordered)
    distance = distance.astype(np.uint64)
    is_nan = [np.isnan(each) for each in values]
    distance[is_nan[0] & is_nan[1]] = 0
    distance[(nulls[0] != nulls[1]) | (is_nan[0] != is_nan[1])] = np.iinfo(np.uint64).max
    return distance


def greatest_difference(one: pa.ChunkedArray, other: pa.ChunkedArray) -> float | None:
    """The greatest difference between floats of two columns of one type, or of their lists.

    Returns:
        None where no row has a finite number in both, or the columns hold no floats.
    """
    left, right = one.combine_chunks(), other.combine_chunks()
    if pa.types.is_list(left.type):
        lengths = _lengths(left, right)
        same = pa.array(lengths[0] == lengths[1])
        left, right = left.filter(same).flatten(), right.filter(same).flatten()
    if not pa.types.is_floating(left.type):
        return None
    values = [np.array(each.cast(pa.float64())) for each in (left, right)]
    with np.errstate(invalid="ignore"):
        distance = np.abs(values[0] - values[1])
    distance = distance[np.isfinite(distance)]
    return float(distance.max()) if len(distance) else None
