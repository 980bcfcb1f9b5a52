"""The proof that Spark and the local transform make the same features, on the pipeline's own rows.

About 10,000 rows by a hash of their keys, and strange ones: see `strange.py`. Derived columns are
compared one by one, each over Spark's values of those before, so that the first that differs is
named with a row: bit for bit, and doubles within `DOUBLE_ULPS`; then the features, each within what
its kind states.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from pipeline.errors import LakestormError
from pipeline.features.agreement import apart, unlike_rows
from pipeline.features.duck import UntranslatableError, names_in, translated
from pipeline.features.few_rows import MOST_ROWS, quoted
from pipeline.features.local import Local, LocalTransform, opened_engine
from pipeline.features.prepared import ABSENT, SPLIT, TRAIN, prepared
from pipeline.features.spec import FeatureSpec
from pipeline.features.strange import strange_rows
from pipeline.features.transform import features
from pipeline.features.vocabularies import load, words_of
from pipeline.lake import Lake
from pipeline.lake.schema import from_spark

log = logging.getLogger(__name__)

SAMPLE_ROWS = 10_000
DOUBLE_ULPS = 4
"""How far derived doubles may lie apart: a float, which they become, has 2^29 of their units."""
FEW_TIMES = 20
"""So many times as many rows as are taken alone are compared with the same ones at once."""
LOCAL_WORDS = 1_000_000
"""Words of a vocabulary that a process holds in memory, and looks up for a row."""
_GIVEN = "_given"


def proven(
    clean: DataFrame,
    rows: int,
    spec: FeatureSpec,
    lake: Lake,
    is_sensitive: Callable[[str], bool] = lambda _: False,
) -> Local:
    """Translates the derived columns of a spec and compares both ways.

    Args:
        clean: The rows of `clean`.
        rows: How many there are.
        spec: Fitted on them.
        lake: Has the stored vocabularies.
        is_sensitive: Whether the values of a column must not be shown.

    Returns:
        The local transform, or why there is none.
    """
    used = {name for part in spec.parts for name in part.reads} | {*needed_expressions(spec)}
    withheld = any(map(is_sensitive, used))
    try:
        local = _looked_at(clean, rows, spec, lake)
        if local.spark_only and withheld:
            return local.model_copy(update={"spark_only": _without_values(local.spark_only)})
        return local
    # The features are made, and right: what cannot be shown of them here must not end the stage.
    except Exception as error:  # noqa: BLE001 - Spark, DuckDB and Arrow raise what they like
        told = "values withheld" if withheld else " ".join(str(error).split())[:200]
        reason = f"{type(error).__name__}: {told}"
        log.warning("features without Spark could not be tried: %s", reason)
        return Local.of(pa.schema([]), {}, rows=0, spark_only=f"could not be tried: {reason}")


def _without_values(reason: str) -> str:
    """What is at fault, by name alone."""
    found = re.match(r"derive\.\w+|feature \S+|features\.\S+|derived \w+", reason)
    return f"{found[0] if found else 'a feature'} (values withheld, a sensitive column is used)"


def _looked_at(clean: DataFrame, rows: int, spec: FeatureSpec, lake: Lake) -> Local:
    derive = needed_expressions(spec)
    frame = prepared(clean, spec)
    reads = {column for part in spec.parts for column in part.reads}
    read = {word for text in derive.values() for word in names_in(text)}
    used = reads | read
    ours = {SPLIT, ABSENT, *spec.label_columns, *derive}
    given = [name for name in frame.columns if name in used and name not in ours]
    schema = from_spark(frame.select(*given, *derive).schema)
    stored = [part.vocabulary for part in spec.parts if part.vocabulary is not None]
    if large := [each for each in stored if each.words > LOCAL_WORDS]:
        told = f"features.{large[0].feature} has {large[0].words} words, over {LOCAL_WORDS}"
        return Local.of(schema, {}, rows=0, spark_only=told)
    expressions: dict[str, str] = {}
    for name, text in derive.items():
        try:
            expressions[name] = translated(text, partial(_type_of, frame))
        except UntranslatableError as error:
            return Local.of(schema, {}, rows=0, spark_only=f"derive.{name}: {text!r}: {error}")
    sample = _sample(clean, rows, spec, given, read)
    kept = prepared(sample, spec).withColumn(_GIVEN, F.struct(*given, *derive))
    find = partial(words_of, clean.sparkSession, lake)
    made = features(kept, spec, words_of=find, beside=(_GIVEN,))
    by_spark = made.select(_GIVEN, SPLIT, *spec.feature_columns)
    found = by_spark.toArrow()
    held = pa.Table.from_struct_array(found[_GIVEN]).cast(schema)
    local = Local.of(schema, expressions, rows=found.num_rows)
    reason, ulps = _difference(local, held, derive)
    if reason is None:
        transform = LocalTransform(spec, local, load(lake, spec))
        reason = _features_differ(spec, transform, held, found)
        if reason is None and expressions:
            reason = _few_differ(transform, held)
    return local.model_copy(update={"spark_only": reason, "ulps": ulps})


def _type_of(frame: DataFrame, text: str) -> DataType | None:
    """The type of an expression over a frame; None where it is none."""
    try:
        return frame.select(F.expr(text)).schema[0].dataType
    except AnalysisException:
        return None


def needed_expressions(spec: FeatureSpec) -> dict[str, str]:
    """The derived columns that features are made of, directly or through others, in order."""
    needed = {column for part in spec.parts for column in part.reads}
    chosen: dict[str, str] = {}
    for name, text in reversed(spec.derive.items()):
        if name in needed:
            chosen[name] = text
            needed |= names_in(text)
    return dict(reversed(chosen.items()))


def _sample(
    clean: DataFrame, rows: int, spec: FeatureSpec, given: Sequence[str], read: Collection[str]
) -> DataFrame:
    """Rows by a hash of their keys, and strange ones.

    Columns of histories come out as of the sample alone: here they are as good as any others.
    """
    every = max(1, rows // SAMPLE_ROWS)
    sampled = clean.where(F.pmod(F.xxhash64(*spec.keys), F.lit(every)) == 0)
    columns = [name for name in given if name in clean.columns]
    return sampled.unionByName(strange_rows(clean, columns, read))


def _difference(
    local: Local, held: pa.Table, derive: Mapping[str, str]
) -> tuple[str | None, dict[str, int]]:
    """The first derived column that differs, with a row; and how far doubles lie apart."""
    ulps: dict[str, int] = {}
    engine = opened_engine()
    engine.register("held", held)
    for name, text in local.expressions.items():
        where = f"derive.{name}: {derive[name]!r}"
        before = held.column_names[: held.column_names.index(name)]
        columns = ", ".join(quoted(column) for column in before)
        query = f"SELECT {text} AS made FROM (SELECT {columns} FROM held)"  # noqa: S608
        try:
            made = engine.sql(query).to_arrow_table()["made"].cast(held.schema.field(name).type)
        except (duckdb.Error, pa.ArrowException) as error:
            return f"{where}: {' '.join(str(error).split())[:200]}", {}
        unlike = unlike_rows(made, held[name], DOUBLE_ULPS)
        if len(unlike):
            used = [column for column in before if column in names_in(derive[name])]
            return f"{where} is {_told(held, made, name, int(unlike[0]), used)}", {}
        if pa.types.is_floating(made.type) and len(made):
            ulps[name] = int(apart(made.combine_chunks(), held[name].combine_chunks()).max())
    return None, {name: far for name, far in ulps.items() if far}


def _features_differ(
    spec: FeatureSpec, transform: LocalTransform, held: pa.Table, by_spark: pa.Table
) -> str | None:
    """The first feature that differs, with a row.

    What is out of fold in the train split is compared in the others: rows that are served are in
    none.
    """
    try:
        made = transform.features(held.select(transform.given.names))
    except (LakestormError, duckdb.Error) as error:
        return str(error)
    in_train = np.flatnonzero(np.array(by_spark[SPLIT].to_pylist()) == TRAIN)
    for column in spec.columns:
        part = spec.parts_by_column[column.name]
        unlike = unlike_rows(made[column.name], by_spark[column.name], part.ulps)
        unlike = np.setdiff1d(unlike, in_train) if part.needs_folds else unlike
        if len(unlike):
            reads = held.select(part.reads).append_column(column.name, by_spark[column.name])
            told = _told(reads, made[column.name], column.name, int(unlike[0]), part.reads)
            return f"feature {column.name} is {told}"
    return None


def _few_differ(transform: LocalTransform, held: pa.Table) -> str | None:
    """The first derived column that a few rows alone have otherwise than many, with a row.

    The strange rows are the last of the sample.
    """
    rows = held.select(transform.given.names)
    few = rows.slice(max(0, len(rows) - FEW_TIMES * MOST_ROWS))
    places = range(0, len(few), MOST_ROWS)
    try:
        at_once = transform.derived_at_once(few)
        parts = [transform.derived(few.slice(place, MOST_ROWS)) for place in places]
    except (LakestormError, duckdb.Error, pa.ArrowException) as error:
        return str(error)
    alone = pa.concat_tables(parts) if parts else at_once
    for name in at_once.column_names:
        unlike = unlike_rows(at_once[name], alone[name])
        if len(unlike):
            told = _told(at_once, alone[name], name, int(unlike[0]), transform.given.names)
            return f"derived {name}, by itself: {told}"
    return None


def _told(held: pa.Table, made: pa.ChunkedArray, name: str, place: int, used: Sequence[str]) -> str:
    """What both ways make of a row, and the row."""
    row = {column: _shown(held[column][place].as_py()) for column in used}
    by_spark = _shown(held[name][place].as_py())
    return f"{by_spark} to Spark and {_shown(made[place].as_py())} without it for {row}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
