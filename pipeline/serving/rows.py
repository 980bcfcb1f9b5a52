"""Rows as users have them: a dict, dicts, pandas, Polars or Arrow; to Arrow and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from pipeline.errors import RowError

Rows: TypeAlias = Any
"""A dict, a sequence of dicts, `pandas.DataFrame`, `polars.DataFrame`, `pyarrow.Table`."""
Back: TypeAlias = Callable[[pa.Table], Rows]


def to_arrow(rows: Rows, schema: pa.Schema, optional: Iterable[str]) -> tuple[pa.Table, Back]:
    """The rows as Arrow, and what makes of a table what the rows were.

    Args:
        rows: In any of the forms.
        schema: Columns that dicts are read as.
        optional: Further columns that dicts may have, of any type; null in those that lack one.

    Raises:
        RowError: They are in no form, or a dict lacks a field or has a wrong value.
    """
    if isinstance(rows, Mapping):
        return _of_dicts([rows], schema, optional), lambda table: table.to_pylist()[0]
    if isinstance(rows, pa.Table):
        return rows, lambda table: table
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows]), lambda table: table
    module = type(rows).__module__.partition(".")[0]
    if module == "pandas":
        return pa.Table.from_pandas(rows, preserve_index=False), lambda table: table.to_pandas()
    if module == "polars":
        import polars as pl  # theirs: who has such a frame has Polars

        return rows.to_arrow(), pl.from_arrow
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        return _of_dicts(rows, schema, optional), lambda table: table.to_pylist()
    raise RowError(
        "rows",
        f"are {type(rows).__name__}",
        "Give a dict, a list of dicts, or a frame of pandas, Polars or Arrow.",
    )


def _of_dicts(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, optional: Iterable[str]
) -> pa.Table:
    """Dicts as a table; every field of the schema must be there."""
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise RowError(f"row {place}", f"is {type(row).__name__}", "Give a dict a row.")
        missing = [name for name in schema.names if name not in row]
        if missing:
            kind = schema.field(missing[0]).type
            raise RowError(
                f"row {place}, field {missing[0]}",
                "is missing",
                f"Give it as {kind}; null where it is not known.",
            )
    arrays = [_column([row[field.name] for row in rows], field) for field in schema]
    names = list(schema.names)
    for name in optional:
        if name not in schema.names and any(name in row for row in rows):
            arrays.append(_any_column([row.get(name) for row in rows], name))
            names.append(name)
    return pa.Table.from_arrays(arrays, names=names)


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    try:
        if pa.types.is_integer(field.type) and any(map(_is_broken, values)):
            raise ValueError("it is no whole number")  # Arrow would cut it off
        if _is_number(field.type) and any(isinstance(value, bool) for value in values):
            raise ValueError("it is no number")  # Arrow would take it for 0 or 1
        return pa.array(values, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        place = next((i for i, value in enumerate(values) if not _fits(value, field.type)), 0)
        raise RowError(
            f"row {place}, field {field.name}",
            f"is {_shown(values[place])}: {' '.join(str(error).split())[:160]}",
            f"Give {field.type}, or null where it is not known.",
        ) from error


def _any_column(values: list[Any], name: str) -> pa.Array:
    for place, value in enumerate(values):
        if isinstance(value, Mapping | list | tuple | set):
            raise RowError(
                f"row {place}, field {name}",
                f"is {type(value).__name__}",
                "Give a key as a text, a number or a time.",
            )
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        problem = f"cannot be read: {' '.join(str(error).split())[:160]}"
        raise RowError(f"field {name}", problem, "Give values of one type.") from error


def _is_broken(value: Any) -> bool:
    return isinstance(value, float) and not value.is_integer()


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _fits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_integer(kind) and _is_broken(value):
        return False
    if _is_number(kind) and isinstance(value, bool):
        return False
    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
