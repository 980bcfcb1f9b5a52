"""The transform without Spark: a fitted spec applied to Arrow columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipeline.features.spec import FeatureSpec


def features_of(
    rows: pa.Table, spec: FeatureSpec, words: Mapping[str, pa.Table] | None = None
) -> pa.Table:
    """The feature columns of some rows, as Spark's `transform.features` makes them.

    Rows that are served are in no split: features that are out of fold in the train split are
    those of all other rows.

    Args:
        rows: The columns of `clean` that features are made of, derived ones included.
        spec: The fitted spec.
        words: Its stored vocabularies: what `pipeline.features.vocabularies.load` returns.

    Returns:
        `spec.columns`, in their types, [rows]; each part equals Spark's within its `ulps`.

    Raises:
        SpecError: A column is missing, or of a type for which only Spark's conversion is known,
            or a stored vocabulary was not given.
    """
    parts = [
        part.with_words(words[part.vocabulary.feature]) if words and part.vocabulary else part
        for part in spec.parts
    ]
    given = {name: rows[name] for name in rows.column_names}
    # Java does not warn of infinities either; what becomes of them each kind says.
    with np.errstate(all="ignore"):
        made = {
            column.name: values
            for part in parts
            for column, values in zip(part.columns(), part.arrow(given), strict=True)
        }
    schema = pa.schema([(column.name, column.arrow_type) for column in spec.columns])
    return pa.Table.from_arrays([made[name] for name in schema.names], schema=schema)
