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
        ulps: How far float32 values may lie apart, in units in the last place. NaN equals NaN.
    """
    left, right = one.combine_chunks(), other.combine_chunks()
    if pa.types.is_floating(left.type):
        return np.flatnonzero(_floats_differ(left, right, ulps))
    if pa.types.is_list(left.type) and pa.types.is_floating(left.type.value_type):
        return _unlike_lists(left, right, ulps)
    pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
    return np.flatnonzero(np.array([repr(a) != repr(b) for a, b in pairs], bool))


def _unlike_lists(left: pa.ListArray, right: pa.ListArray, ulps: int) -> Rows:
    lengths = [np.array(each.value_lengths().fill_null(-1)) for each in (left, right)]
    if (lengths[0] != lengths[1]).any():
        return np.flatnonzero(lengths[0] != lengths[1])
    differ = _floats_differ(left.flatten(), right.flatten(), ulps)
    # [values] -> [rows], by the row that each value belongs to
    return np.unique(np.repeat(np.arange(len(left)), np.maximum(lengths[0], 0))[differ])


def _floats_differ(left: pa.Array, right: pa.Array, ulps: int) -> npt.NDArray[np.bool_]:
    """Whether floats [values] differ."""
    kind = np.int32 if left.type == pa.float32() else np.int64
    nulls = [np.array(each.is_null()) for each in (left, right)]
    values = [each.fill_null(0).to_numpy(zero_copy_only=False) for each in (left, right)]
    bits = [each.view(kind) for each in values]
    far = bits[0] != bits[1]
    if ulps:
        # The bits of negative floats run backwards. Only float32 is allowed to differ.
        ordered = [np.where(b < 0, np.iinfo(np.int32).min - b, b).astype(np.int64) for b in bits]
        far = np.abs(ordered[0] - ordered[1]) > ulps
    same_nan = np.isnan(values[0]) & np.isnan(values[1])
    differ: npt.NDArray[np.bool_] = (nulls[0] != nulls[1]) | (far & ~same_nan & ~nulls[0])
    return differ
