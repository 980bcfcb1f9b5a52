"""Capital and small letters for DuckDB as Spark has them: by Unicode's full mapping.

Spark's `upper` makes SS of a sharp s, and its `lower` knows a sigma that ends a word; so does
Python. Both follow the Unicode version that they came with, and differ in letters of later ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb.sqltypes import VARCHAR

UPPER, LOWER = "unicode_upper", "unicode_lower"
"""The functions' names in DuckDB."""


def add_casing(engine: duckdb.DuckDBPyConnection) -> None:
    """Gives an engine both functions."""
    create: Any = engine.create_function  # its types do not know Arrow's
    for name, full, of_ascii in (
        (UPPER, str.upper, pc.ascii_upper),
        (LOWER, str.lower, pc.ascii_lower),
    ):
        create(name, partial(_mapped, full, of_ascii), [VARCHAR], VARCHAR, type="arrow")


def _mapped(
    full: Callable[[str], str],
    of_ascii: Callable[[pa.ChunkedArray], pa.ChunkedArray],
    texts: pa.ChunkedArray,
) -> pa.Array | pa.ChunkedArray:
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:
        return of_ascii(texts)
    return pa.array([None if text is None else full(text) for text in texts.to_pylist()])
