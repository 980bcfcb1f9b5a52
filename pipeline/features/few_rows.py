"""Derived columns of a few rows, by a statement that DuckDB planned beforehand.

Planning takes DuckDB milliseconds, and one row nothing: the statement is prepared once, and the
values come as texts, each cast to its column's type. Many rows come as Arrow, see `local.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import pyarrow as pa

MOST_ROWS = 64
"""From there on Arrow is faster."""


class FewRows:
    """A prepared statement over the columns of a schema.

    Args:
        engine: An open connection.
        given: Columns of `clean`.
        expressions: Derived column to DuckDB's SQL, in order.
        schema: `given`, then the derived columns.
    """

    def __init__(
        self,
        engine: duckdb.DuckDBPyConnection,
        given: pa.Schema,
        expressions: Mapping[str, str],
        schema: pa.Schema,
    ) -> None:
        self._engine = engine
        self._schema = schema
        self._names = [name for name in given.names if _is_used(name, expressions.values())]
        types = [_type_of(given.field(name).type) for name in self._names]
        self.usable = bool(expressions) and bool(types) and None not in types
        """False for columns of lists, structs and maps, which have no text."""
        if self.usable:
            columns = ", ".join(
                # Told twice, as a parameter of another type would be planned anew.
                f"unnest(CAST(CAST(${place} AS VARCHAR[]) AS {kind}[])) AS {quoted(name)}"
                for place, (name, kind) in enumerate(zip(self._names, types, strict=True), 1)
            )
            listed = ", ".join(f"{text} AS {quoted(name)}" for name, text in expressions.items())
            engine.execute(f"PREPARE few_rows AS SELECT {listed} FROM (SELECT {columns})")  # noqa: S608
        self._derived = [field for field in schema if field.name in expressions]

    def takes(self, rows: pa.Table) -> bool:
        """Whether these rows are few enough."""
        return self.usable and 0 < rows.num_rows <= MOST_ROWS

    def derived(self, rows: pa.Table) -> pa.Table:
        """The given columns with the derived ones beside them."""
        values = (_list_of(rows[name].to_pylist()) for name in self._names)
        found = self._engine.execute(f"EXECUTE few_rows({', '.join(values)})").fetchall()
        columns = zip(*found, strict=True)
        made = [
            pa.array(list(column)).cast(field.type)
            for column, field in zip(columns, self._derived, strict=True)
        ]
        return pa.Table.from_arrays([*rows.columns, *made], schema=self._schema)


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _is_used(name: str, expressions: Iterable[str]) -> bool:
    return any(name.lower() in text.lower() for text in expressions)


def _list_of(values: list[Any]) -> str:
    """A list of texts in SQL; a quote within is doubled, and nothing else means anything there."""
    texts = ("NULL" if value is None else f"'{_text(value)}'" for value in values)
    return f"[{', '.join(texts)}]::VARCHAR[]"


def _text(value: Any) -> str:
    """A value as DuckDB casts it back, exactly."""
    if isinstance(value, bytes):
        return "".join(f"\\x{byte:02x}" for byte in value)
    return str(value).replace("'", "''")


def _type_of(kind: pa.DataType) -> str | None:
    """DuckDB's name of a type; None for what has no text."""
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz else "TIMESTAMP"
    return _TYPES.get(kind)


_TYPES: Mapping[pa.DataType, str] = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "REAL",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
}
