"""What changed rows of `clean` change elsewhere, where features or labels are made of other rows.

A row that comes, goes or is corrected changes the histories of the same entity's later rows, and
the outcomes of its earlier ones, as far as windows of time reach. The periods that hold such rows
are made anew, as a whole; to make any row, all events of its entity are read. Times of outcomes are
negated: what is earlier comes after.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import reduce
from operator import and_, or_

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.config import History
from pipeline.features.histories import event_columns
from pipeline.features.moments import Events, steps_of
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Backlog, Changes, Snapshot
from pipeline.sources.raw import quoted

_KEY, _SIGN, _MARK, _ORDER = "_key_", "_sign", "_mark_", "_order_"
_SINCE, _UNTIL = "_since", "_until"


def with_later_rows(
    spark: SparkSession, todo: Backlog, clean: Snapshot, spec: FeatureSpec
) -> tuple[Backlog, DataFrame | None]:
    """Widens a backlog to all rows whose features its changes touch.

    Args:
        spark: The session.
        todo: What changed since the features were made.
        clean: The version to come to.
        spec: The fitted spec.

    Returns:
        The backlog, and further rows of `clean` that its histories and outcomes need; None where
        there are none of these, or the backlog holds all rows.
    """
    if not spec.of_other_rows or todo.replaces == "all":
        return todo, None
    if todo.changes is None:
        return todo.anew(clean, "all"), None
    gone = clean.of_files(todo.changes.removed)
    if not gone.is_whole():  # vacuumed: whose history they were in is not known any more
        return todo.anew(clean, "all"), None
    came = clean.of_files(todo.changes.added)
    only_came = not gone.files and _paths(came) <= _paths(clean)
    others = _without(clean, came) if only_came else clean
    touched = _periods_of_later_rows(spark, others, came, gone, spec)
    if not only_came or touched:
        touched |= _periods_of(todo.changes, spec.period_column)
        todo = replace(todo, rows=clean.select(**{spec.period_column: touched}), replaces=touched)
    rest = _without(clean, todo.rows)
    return todo, _of_same_entities(rest.dataframe(spark), todo.rows.dataframe(spark), spec)


def _without(clean: Snapshot, taken: Snapshot) -> Snapshot:
    paths = _paths(taken)
    return clean.of_files(file for file in clean.files if file.path not in paths)


def _paths(snapshot: Snapshot) -> set[str]:
    return {file.path for file in snapshot.files}


def _periods_of(changes: Changes, period_column: str) -> set[str | None]:
    return {file.partition[period_column] for file in (*changes.added, *changes.removed)}


def _periods_of_later_rows(
    spark: SparkSession, clean: Snapshot, came: Snapshot, gone: Snapshot, spec: FeatureSpec
) -> set[str | None]:
    """The periods of rows that have a changed event in their history or outcome."""
    if not clean.files:
        return set()
    rows, period = clean.dataframe(spark), quoted(spec.period_column).alias("period")
    found = []
    for name, history in spec.of_other_rows.items():
        since = _changed_since(spark, came, gone, spec, name)
        columns, events = event_columns(rows, history, name, spec.leakage)
        keyed = rows.select(*_keys(history.entity), columns[events.time].alias(events.time), period)
        later = keyed.join(since, _on(keyed, since, len(history.entity)))
        touched = F.col(events.time) > F.col(_SINCE)
        reach = _reach(history, events, name)
        if reach is not None:
            touched &= F.col(events.time) <= F.col(_UNTIL) + F.lit(reach)
        found.append(later.where(touched).select("period"))
    # Not rows are collected but the names of partitions.
    periods = [row["period"] for row in reduce(DataFrame.unionAll, found).distinct().collect()]
    chosen = clean.select(**{spec.period_column: periods})
    return {file.partition[spec.period_column] for file in chosen.files}


def _reach(history: History, events: Events, name: str) -> int | None:
    """For how long an event is in some window; None where one has no end in time."""
    steps = steps_of(history, events.kind, f"{history.section}.{name}").values()
    lengths = [length for length in steps if isinstance(length, int)]
    bounded = len(lengths) == len(history.outputs)
    return max(lengths) if bounded else None


def _changed_since(
    spark: SparkSession, came: Snapshot, gone: Snapshot, spec: FeatureSpec, name: str
) -> DataFrame:
    """Each entity with other events than before; the moments of the first and last of them."""
    history = spec.of_other_rows[name]
    sides = [(came, 1), (gone, -1)] if gone.files else [(came, 1)]
    signed = []
    for snapshot, sign in sides:
        rows = snapshot.dataframe(spark)
        columns, events = event_columns(rows, history, name, spec.leakage)
        read = [column.alias(hidden) for hidden, column in columns.items()]
        order = [quoted(each).alias(f"{_ORDER}{at}") for at, each in enumerate(history.order)]
        event = rows.select(*_keys(history.entity), *read, *order, F.lit(sign).alias(_SIGN))
        signed.append(event.where(F.col(events.moment).isNotNull()))
    changed = reduce(DataFrame.unionAll, signed)
    if gone.files:
        # A file that is written again for one row's sake holds all others as they were.
        same = [each for each in changed.columns if each != _SIGN]
        changed = changed.groupBy(*same).agg(F.sum(_SIGN).alias(_SIGN)).where(F.col(_SIGN) != 0)
    keys = [f"{_KEY}{place}" for place in range(len(history.entity))]
    return changed.groupBy(*keys).agg(
        F.min(events.moment).alias(_SINCE), F.max(events.moment).alias(_UNTIL)
    )


def _of_same_entities(rest: DataFrame, rows: DataFrame, spec: FeatureSpec) -> DataFrame:
    """Those of the rest that are in the history or outcome of some row."""
    entities = dict.fromkeys(history.entity for history in spec.of_other_rows.values())
    joined = rest
    for place, entity in enumerate(entities):
        named = rows.select(*_keys(entity)).distinct().withColumn(f"{_MARK}{place}", F.lit(1))
        keys = [quoted(name) == F.col(f"{_KEY}{at}") for at, name in enumerate(entity)]
        joined = joined.join(named, reduce(and_, keys), "left").drop(*_key_names(entity))
    found = (F.col(f"{_MARK}{place}").isNotNull() for place in range(len(entities)))
    return joined.where(reduce(or_, found)).select(*(quoted(name) for name in rest.columns))


def _keys(entity: Iterable[str]) -> list[Column]:
    return [quoted(name).alias(f"{_KEY}{place}") for place, name in enumerate(entity)]


def _key_names(entity: Collection[str]) -> list[str]:
    return [f"{_KEY}{place}" for place in range(len(entity))]


def _on(left: DataFrame, right: DataFrame, keys: int) -> Column:
    names = [f"{_KEY}{place}" for place in range(keys)]
    return reduce(and_, (left[name] == right[name] for name in names))
