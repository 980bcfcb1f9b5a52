"""A fitted spec in this process: rows of `clean` to features by DuckDB and NumPy, without Java.

The derived columns are Spark SQL; `duck.py` translated them once, at the end of featurize, and
`proof.py` found that both ways give the same features for the pipeline's own rows. A spec of which
that is not so has no local transform, but a reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import Schema as DeltaSchema
from pydantic import BaseModel, ConfigDict

from pipeline.errors import RowError, SpecError
from pipeline.features.arrow import features_of
from pipeline.features.casing import add_casing
from pipeline.features.few_rows import FewRows, quoted
from pipeline.features.spec import FeatureSpec
from pipeline.lake.schema import from_delta, to_delta


class Local(BaseModel):
    """What is needed beside a spec to make its features without Spark."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: dict[str, Any]
    """Columns of `clean` that the features are made of, then the derived ones, as Delta has it."""
    expressions: dict[str, str]
    """Derived column to DuckDB's SQL, in order."""
    rows: int
    """Rows for which both ways were compared and gave the same features."""
    ulps: dict[str, int] = {}
    """Derived column, a double, to how far both ways lay apart at most, in units in the last place,
    where they did: logarithms and the like are rounded in another way."""
    engine: str
    """Such as `duckdb 2.0.1`."""
    spark_only: str | None = None
    """Why there is no other way than Spark; None where there is."""

    @classmethod
    def of(cls, schema: pa.Schema, expressions: Mapping[str, str], **found: Any) -> Local:
        """The description of a transform over these columns."""
        return cls(
            columns=json.loads(to_delta(schema).to_json()),
            expressions=dict(expressions),
            engine=f"duckdb {duckdb.__version__}",
            **found,
        )

    @property
    def schema(self) -> pa.Schema:
        """Columns of `clean` that the features are made of, then the derived ones."""
        return from_delta(DeltaSchema.from_json(json.dumps(self.columns)))

    @property
    def given(self) -> pa.Schema:
        """Columns of `clean` that the features are made of."""
        return pa.schema([field for field in self.schema if field.name not in self.expressions])


class LocalTransform:
    """Makes features of rows of `clean`; not to be shared by threads.

    Args:
        spec: The fitted spec.
        local: What was proven for it.
        words: Its stored vocabularies: what `pipeline.features.vocabularies.load` returns.

    Raises:
        SpecError: Only Spark can make its features, or a vocabulary was not given.
    """

    def __init__(
        self, spec: FeatureSpec, local: Local, words: Mapping[str, pa.Table] | None = None
    ) -> None:
        if local.spark_only is not None:
            raise SpecError(
                f"feature spec {spec.hash}",
                f"is for Spark only: {local.spark_only}",
                "Score with `lakestorm score`, or write the expression in another way.",
            )
        for part in spec.parts:
            if part.vocabulary and part.vocabulary.feature not in (words or {}):
                raise SpecError(
                    f"features.{part.vocabulary.feature}",
                    "has a vocabulary that is stored in the lake, and was not given",
                    "Load the model from its lake: Scorer.load.",
                )
        self._words = words
        self._spec = spec
        self._local = local
        self._engine = opened_engine()
        self._schema = local.schema
        self.given = local.given
        """Columns that rows must have."""
        listed = ", ".join(f"{text} AS {quoted(name)}" for name, text in local.expressions.items())
        try:
            self._few = FewRows(self._engine, self.given, local.expressions, self._schema)
        except duckdb.Error as error:
            raise self._cannot_be_evaluated(error) from error
        self._query = f"SELECT {listed} FROM rows"  # noqa: S608 - no access to anything else

    def features(self, rows: pa.Table) -> pa.Table:
        """The feature columns of some rows.

        Args:
            rows: At least the columns `given`, in types that these can be cast to exactly.

        Returns:
            `spec.columns`, [rows].

        Raises:
            RowError: A column is missing, or holds a value that its type does not.
        """
        return features_of(self.derived(conformed(rows, self.given)), self._spec, self._words)

    def derived(self, rows: pa.Table) -> pa.Table:
        """The given columns with the derived ones beside them."""
        if not self._local.expressions:
            return rows
        try:
            return self._few.derived(rows) if self._few.takes(rows) else self.derived_at_once(rows)
        except duckdb.Error as error:
            raise self._cannot_be_evaluated(error) from error

    def derived_at_once(self, rows: pa.Table) -> pa.Table:
        """The same for any number of rows."""
        # In place of the rows before; taking them away each time took as long as the query.
        self._engine.register("rows", rows)
        made = self._engine.sql(self._query).to_arrow_table()
        # The given columns stay as they are: taking them through the engine copies them twice.
        derived = (made[name].cast(self._schema.field(name).type) for name in made.column_names)
        return pa.Table.from_arrays([*rows.columns, *derived], schema=self._schema)

    def _cannot_be_evaluated(self, error: duckdb.Error) -> SpecError:
        return SpecError(
            f"feature spec {self._spec.hash}",
            f"cannot be evaluated: {' '.join(str(error).split())[:200]}",
            "Run featurize again with this version of lakestorm, and train on it.",
        )


def opened_engine() -> duckdb.DuckDBPyConnection:
    """DuckDB in memory, in UTC: on one core, without files and extensions.

    What it evaluates comes from a model's folder.
    """
    engine = duckdb.connect(
        config={
            "threads": 1,
            "enable_external_access": False,
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
        }
    )
    add_casing(engine)
    engine.execute("SET TimeZone = 'UTC'")
    engine.execute("SET lock_configuration = true")
    return engine


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, in its order and types.

    Raises:
        RowError: A column is missing, or holds a value that its type does not.
    """
    return pa.Table.from_arrays([_column(rows, field) for field in schema], schema=schema)


def _column(rows: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in rows.column_names:
        raise RowError(
            f"field {field.name}",
            f"is missing; given are {_listed(rows.column_names)}",
            f"Give it as {field.type}; null where it is not known.",
        )
    try:
        return rows[field.name].cast(field.type)
    except pa.ArrowException as error:
        raise RowError(
            f"field {field.name}",
            f"cannot be {field.type}: {' '.join(str(error).split())[:200]}",
            f"Give values of {field.type}.",
        ) from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:30]) or "none"
