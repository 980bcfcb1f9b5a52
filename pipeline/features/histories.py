"""Histories: columns made of each entity's earlier events, never of the row or of later ones.

Outcomes, which labels are made of, are the same of later events: histories with time negated.

All rows of an entity are brought together once, for all histories of it; `moments` then walks them
in the order of time. What an event says counts for a row only if the event became known strictly
before the row's time, so rows of equal time do not see each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BinaryType,
    BooleanType,
    ByteType,
    DataType,
    DateType,
    DecimalType,
    FractionalType,
    IntegerType,
    LongType,
    NumericType,
    ShortType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

from pipeline.config import History
from pipeline.config.histories import LONGEST_NUMBER, Aggregate, history_columns
from pipeline.errors import LeakageError, SpecError
from pipeline.expressions import Checked, checked, is_taken
from pipeline.features.derive import without_leakage
from pipeline.features.moments import APART, KEY, Events, steps_of, with_outputs
from pipeline.sources.raw import quoted

_IS_ROW = "_history_row"
_NUMBERED = ("sum", "mean", "std")
_TIMES = (TimestampType, TimestampNTZType, DateType)
_WHOLE = (ByteType, ShortType, IntegerType, LongType)
_VALUES = (NumericType, BooleanType, StringType, BinaryType, *_TIMES)


def with_histories(
    frame: DataFrame,
    histories: Mapping[str, History],
    leakage: Sequence[str],
    context: DataFrame | None = None,
) -> DataFrame:
    """Adds the columns of all histories and outcomes.

    Args:
        frame: Rows of `clean`.
        histories: The descriptions of both by name.
        leakage: Columns known only after the moment of prediction.
        context: Further rows of `clean`, which are events but are not returned; None where `frame`
            holds all events of its entities.

    Returns:
        The rows of `frame`, each once, with the columns of `history_columns`.

    Raises:
        LeakageError: A value is made of a leakage column, and the history has no `known_at`.
        SpecError: An expression is wrong, or has a type that the history cannot use.
    """
    if not histories:
        return frame
    everything = frame.withColumn(_IS_ROW, F.lit(True))
    if context is not None:
        everything = everything.unionByName(context.withColumn(_IS_ROW, F.lit(False)))
    _require_new(frame, histories)
    rows, events = _with_events(everything, histories, leakage)
    for entity in dict.fromkeys(history.entity for history in histories.values()):
        rows = _brought_together(rows, entity, frame)
        for name, history in histories.items():
            if history.entity == entity:
                rows = with_outputs(rows, name, history, events[name])
    made = [column for column, _, _ in history_columns(histories)]
    kept = [quoted(name) for name in (*frame.columns, *made)]
    return rows.where(_IS_ROW).select(*kept)


def event_columns(
    frame: DataFrame, history: History, name: str, leakage: Sequence[str], place: int = 0
) -> tuple[dict[str, Column], Events]:
    """What a history reads of each row.

    Args:
        frame: Rows of `clean`.
        history: The description.
        name: Of the history.
        leakage: Columns known only afterwards.
        place: Number of the history, which tells its hidden columns from those of others.

    Returns:
        Hidden columns to add to the frame, and their names with the type of time.

    Raises:
        LeakageError: A value is made of a leakage column, and the history has no `known_at`.
        SpecError: An expression is wrong, or has a type that the history cannot use.
    """
    where = f"{history.section}.{name}"
    if history.looks_ahead:  # whatever is known afterwards may make a label
        leakage = ()
    _require_entity(frame, history, where, leakage)
    time = without_leakage(frame, history.time, f"{where}.time", leakage)
    whose = F.lit(True)
    for key in history.entity:
        whose = whose & quoted(key).isNotNull()
    events = Events(
        time=f"_history_{place}_time",
        moment=f"_history_{place}_moment",
        values={text: f"_history_{place}_{at}" for at, text in enumerate(history.values)},
        kind=_time_kind(time, f"{where}.time"),
    )
    steps_of(history, events.kind, where)
    asked = F.when(whose, _as_number(time.column, time.type))
    if history.looks_ahead:
        asked = -asked
    moment = asked
    if history.known_at is not None:
        known = checked(frame, history.known_at, f"{where}.known_at", SpecError)
        if known.type != time.type:
            raise SpecError(
                f"{where}.known_at",
                f"is {known.type.simpleString()}, and time is {time.type.simpleString()}",
                "Cast one of them: both are compared as they are.",
            )
        later = _as_number(known.column, known.type)
        # `greatest` leaves nulls out; what never becomes known is in no history.
        moment = F.when(asked.isNotNull() & later.isNotNull(), F.greatest(asked, later))
    values = {
        events.values[text]: _value(frame, history, text, where, leakage) for text in history.values
    }
    return {events.time: asked, events.moment: moment, **values}, events


def _with_events(
    everything: DataFrame, histories: Mapping[str, History], leakage: Sequence[str]
) -> tuple[DataFrame, dict[str, Events]]:
    visible = everything.drop(_IS_ROW)
    columns: dict[str, Column] = {}
    events: dict[str, Events] = {}
    for place, (name, history) in enumerate(histories.items()):
        added, events[name] = event_columns(visible, history, name, leakage, place)
        columns |= added
    return everything.withColumns(columns), events


def _brought_together(rows: DataFrame, entity: Sequence[str], frame: DataFrame) -> DataFrame:
    """The one shuffle: all rows of an entity to one task."""
    unknown = reduce(or_, (quoted(key).isNull() for key in entity))
    # Rows of no entity would all be one group, in one task: their own values spread them.
    # Spark can hash all types but maps.
    spread = [quoted(f.name) for f in frame.schema if "map<" not in f.dataType.simpleString()]
    keys = {f"{KEY}{place}": quoted(key) for place, key in enumerate(entity)}
    old = [name for name in rows.columns if name.startswith(KEY) or name == APART]
    keyed = rows.drop(*old).withColumns({**keys, APART: F.when(unknown, F.xxhash64(*spread))})
    return keyed.repartition(*keys, APART)


def _as_number(time: Column, kind: DataType) -> Column:
    """Microseconds, days, or the number itself; null beyond what a window can reach from."""
    if isinstance(kind, DateType):
        number = F.unix_date(time).cast("bigint")
    elif isinstance(kind, _TIMES):
        # Times without a zone count as UTC, the session's own, which has no hour twice.
        number = F.unix_micros(time.cast("timestamp"))
    else:
        number = time.cast("bigint")
    return F.when(number.between(-LONGEST_NUMBER + 1, LONGEST_NUMBER - 1), number)


def _time_kind(time: Checked, where: str) -> DataType:
    if not isinstance(time.type, _TIMES + _WHOLE):
        remedy = "Use a timestamp, a date or a whole number."
        if isinstance(time.type, NumericType):
            remedy += " Of a fraction, count its parts: CAST(hours * 3600 AS BIGINT)."
        raise SpecError(where, f"is {time.type.simpleString()}, no time to order by", remedy)
    return time.type


def _value(
    frame: DataFrame, history: History, text: str, where: str, leakage: Sequence[str]
) -> Column:
    """One value of each event; null also for what is no finite number."""
    outputs = [(name, how) for name, how in history.outputs.items() if how.of == text]
    setting = f"{where}.{outputs[0][0]}.of"
    if history.known_at is None:
        try:
            value = without_leakage(frame, text, setting, leakage)
        except LeakageError as error:
            raise LeakageError(
                error.where,
                error.problem,
                "Leave it out, or set known_at: when the value of an earlier event is known.",
            ) from error
    else:
        value = checked(frame, text, setting, SpecError)
    if not isinstance(value.type, _VALUES):
        raise SpecError(
            setting, f"{text!r} is {value.type.simpleString()}", "Use a plain value, not a nest."
        )
    for name, how in outputs:
        counted = isinstance(how, Aggregate) and how.how in _NUMBERED
        if counted and not isinstance(value.type, NumericType | BooleanType):
            raise SpecError(
                f"{where}.{name}",
                f"{text!r} is {value.type.simpleString()}, no number",
                "Take the last, the count or the number of distinct ones instead.",
            )
    if isinstance(value.type, FractionalType) and not isinstance(value.type, DecimalType):
        # To Spark, NaN equals itself and is above all numbers. Adding 0 makes -0 a plain 0.
        finite = F.abs(value.column) < F.lit(float("inf"))
        return F.when(finite, value.column + F.lit(0.0).cast(value.type))
    return value.column


def _require_entity(frame: DataFrame, history: History, where: str, leakage: Sequence[str]) -> None:
    kinds = {field.name: field.dataType for field in frame.schema}
    named = [("entity", name) for name in history.entity]
    named += [("order", name) for name in history.order]
    for setting, name in named:
        if name not in kinds:
            raise SpecError(
                f"{where}.{setting}",
                f"{name!r} is no column of clean; there are {', '.join(kinds)}",
                "Run clean with the description that this spec was fitted under.",
            )
        if not isinstance(kinds[name], _VALUES):
            raise SpecError(
                f"{where}.{setting}",
                f"{name!r} is {kinds[name].simpleString()}, which cannot be compared",
                "Use plain values.",
            )
        if name in leakage and (setting == "entity" or history.known_at is None):
            raise LeakageError(
                f"{where}.{setting}",
                f"{name!r} is listed under features.leakage",
                "Leave it out: at the moment of prediction it is not known yet.",
            )


def _require_new(frame: DataFrame, histories: Mapping[str, History]) -> None:
    seen = set[str]()
    for column, history, _ in history_columns(histories):
        if column in seen or is_taken(column, frame):
            raise SpecError(
                f"{history.section}, column {column}",
                "is a column of clean, or of another history or outcome, already",
                "Choose another name.",
            )
        seen.add(column)
