"""The windows of a history: all rows of an entity, walked in the order of time.

Each row asks at its time, and is an event at the moment when it becomes known. Where both are the
same, a row does both. Where they differ, or where an event is to be forgotten at the end of a
window, the row becomes several: one that asks, one that is an event, and one for each end. Those
that ask see what lies strictly before them.

Every event is given the value over itself and those before it, in one order of all events; a row
takes that of the last event before it. So rows of equal time do not see each other, and sums are
rounded alike wherever rows lie and whatever comes later. Windows of time are in
`moving_windows.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DateType, TimestampNTZType, TimestampType
from pyspark.sql.window import WindowSpec

from pipeline.config import History
from pipeline.config.histories import Aggregate, EventSequence, How, Lag, Rows
from pipeline.errors import SpecError
from pipeline.features.moving_windows import MEASURES, Moving
from pipeline.sources.raw import quoted

KEY, APART = "_history_key_", "_history_apart"
_AT, _ASKS, _EVENT, _ENDS, _PLACE = "_at", "_asks", "_event", "_ends", "_place"
_ROW, _LIST, _FOUND, _DIFFERENT = "_row", "_list", "_found_", "_different_"
_SO_FAR, _LATEST = "_so_far", "_latest"
_FIRST, _LAST = "_first_", "_last_"
_NEVER = -1


@dataclass(frozen=True)
class Events:
    """Hidden columns that a history reads."""

    time: str
    """`bigint`: when a row asks; null where it has no history."""
    moment: str
    """`bigint`: when it becomes known as an event; null where it never does."""
    values: dict[str, str]
    """Expression to column."""
    kind: DataType
    """Of time, as the user has it."""


def steps_of(history: History, kind: DataType, where: str) -> dict[str, int | Rows | None]:
    """How far back each aggregate reads, in the units of the history's time.

    Raises:
        SpecError: A window does not fit the type of time.
    """
    return {
        name: _steps(aggregate, kind, f"{where}.aggregates.{name}.over")
        for name, aggregate in history.aggregates.items()
    }


def _steps(aggregate: Aggregate, kind: DataType, where: str) -> int | Rows | None:
    window = aggregate.window
    if window is None or isinstance(window, Rows):
        return window
    if isinstance(window, timedelta) != isinstance(
        kind, DateType | TimestampType | TimestampNTZType
    ):
        raise SpecError(
            where,
            f"is {aggregate.over!r}, and the history's time is {kind.simpleString()}",
            "Give a time such as `7 days` for times, and a whole number for numbers.",
        )
    if not isinstance(window, timedelta):
        return window
    unit = timedelta(days=1) if isinstance(kind, DateType) else timedelta(microseconds=1)
    if window % unit:
        raise SpecError(where, f"is {aggregate.over!r}, and a date has no hours", "Use whole days.")
    return window // unit


def with_outputs(rows: DataFrame, name: str, history: History, events: Events) -> DataFrame:
    """Adds the outputs of one history.

    Args:
        rows: Rows with the hidden columns `KEY...` and `APART`, partitioned by them, and those of
            `events`.
        name: Of the history.
        history: The description.
        events: Its hidden columns.
    """
    return _Walk(rows, name, history, events).outputs()


class _Walk:
    """The windows of one history over rows that are partitioned by entity."""

    def __init__(self, rows: DataFrame, name: str, history: History, events: Events) -> None:
        self._rows = rows
        self._name = name
        self._history = history
        self._events = events
        self._steps = steps_of(history, events.kind, f"{history.section}.{name}")
        self._group = [each for each in rows.columns if each.startswith(KEY)] + [APART]
        self._different = [
            output
            for output, how in history.aggregates.items()
            if how.how == "distinct" and not isinstance(self._steps[output], Rows)
        ]
        self._moving = {
            output: steps
            for output, steps in self._steps.items()
            if isinstance(steps, int) and history.aggregates[output].how in MEASURES
        }
        forgets = any(self._steps[output] is not None for output in self._different)
        self._unfolds = forgets or history.known_at is not None
        self._tie_breakers = [f"_order_{place}" for place in range(len(history.order))]

    def outputs(self) -> DataFrame:
        # The order of these windows spares sorts: see the plan test.
        walked = self._unfolded() if self._unfolds else self._as_they_are()
        walked = walked.withColumn(_PLACE, F.row_number().over(self._total(self._group)))
        walked = self._looked_up(walked, _SO_FAR, self._of_all_so_far(), F.col(_PLACE))
        if self._different:
            changes = {f"{_FOUND}{n}": F.sum(f"{_DIFFERENT}{n}") for n in self._different}
            earlier = self._earlier()
            walked = walked.withColumns({n: sum_.over(earlier) for n, sum_ in changes.items()})
        is_event = F.when(F.col(_EVENT), F.col(_PLACE))
        walked = self._looked_up(walked, _LATEST, self._of_last_events(), is_event)
        for steps in dict.fromkeys(self._moving.values()):
            walked = self._moved(walked, steps)
        results = {f"{self._name}_{name}": self._result(name) for name in self._history.outputs}
        asked = walked.where(F.col(_ASKS))
        kept = [quoted(name) for name in self._payload()]
        if self._unfolds:
            kept = [F.col(_ROW).getField(name).alias(name) for name in self._payload()]
        made = [column.alias(name) for name, column in results.items()]
        return asked.select(*self._group, *kept, *made)

    def _looked_up(
        self, walked: DataFrame, name: str, values: dict[str, Column], place: Column
    ) -> DataFrame:
        """Gives each row, as a struct, the values of the last row strictly before it."""
        if not values:
            return walked
        last = F.max_by(F.struct(*values), place).over(self._earlier())
        return walked.withColumns(values).withColumn(name, last).drop(*values)

    def _moved(self, walked: DataFrame, steps: int) -> DataFrame:
        """Aggregates over a window of time."""
        outputs = {name: each for name, each in self._moving.items() if each == steps}
        wanted = {
            f"{_FOUND}{name}": (how.how, self._value_of(how))
            for name, how in self._history.aggregates.items()
            if name in outputs
        }
        rows = Moving(walked, self._group, at=_AT, place=_PLACE, ties=self._ties())
        return rows.aggregates(wanted, steps)

    def _payload(self) -> list[str]:
        """What goes on behind this history."""
        hidden = {*self._group, *self._values(), self._events.time, self._events.moment}
        return [name for name in self._rows.columns if name not in hidden]

    def _values(self) -> list[str]:
        return list(self._events.values.values())

    # --- Rows, and what becomes of them.

    def _as_they_are(self) -> DataFrame:
        """Each row asks, and is an event at the same time."""
        return self._marked().withColumns(
            {
                _AT: F.col(self._events.time),
                _ASKS: F.lit(True),
                _EVENT: F.col(self._events.moment).isNotNull(),
                **self._as_events(F.col(self._events.moment).isNotNull()),
                **{
                    f"{_DIFFERENT}{name}": F.col(f"{_FIRST}{name}").cast("int")
                    for name in self._different
                },
            }
        )

    def _unfolded(self) -> DataFrame:
        """Each row once for its question, once as an event, and once for each end of a window."""
        marked, moment = self._marked(), F.col(self._events.moment)
        question = _moment(F.col(self._events.time), asks=True)
        event = F.when(moment.isNotNull(), _moment(moment, event=True))
        ends = [
            F.when(F.col(f"{_LAST}{name}"), _moment(moment + F.lit(self._steps[name]), ends=place))
            for place, name in enumerate(self._different)
            if self._steps[name] is not None
        ]
        unfolded = marked.withColumn("_moment", F.explode(_compact([question, event, *ends])))
        is_event = F.col(f"_moment.{_EVENT}")
        row = F.struct(*(quoted(name) for name in self._payload()))
        return unfolded.select(
            *self._group,
            F.when(F.col(f"_moment.{_ASKS}"), row).alias(_ROW),
            f"_moment.{_AT}",
            f"_moment.{_ASKS}",
            f"_moment.{_EVENT}",
            *(column.alias(name) for name, column in self._as_events(is_event).items()),
            *(
                F.when(is_event & F.col(f"{_FIRST}{name}"), 1)
                .when(F.col(f"_moment.{_ENDS}") == place, -1)
                .alias(f"{_DIFFERENT}{name}")
                for place, name in enumerate(self._different)
            ),
        )

    def _as_events(self, is_event: Column) -> dict[str, Column]:
        """What a row says as an event, null where it is none."""
        ordered = zip(self._tie_breakers, self._history.order, strict=True)
        columns = {
            self._events.time: F.col(self._events.time),
            **{name: F.col(name) for name in self._values()},
            **{breaker: quoted(name) for breaker, name in ordered},
        }
        return {name: F.when(is_event, column) for name, column in columns.items()}

    def _marked(self) -> DataFrame:
        """Marks where a value comes after its absence, and where it goes, for counts of values.

        A value is there from an occurrence on for the length of the window; occurrences that
        follow each other within it are one stretch, with one beginning and one end.
        """
        marks: dict[str, Column] = {}
        moment = F.col(self._events.moment)
        for name in self._different:
            value = self._value_of(self._history.aggregates[name])
            same = Window.partitionBy(*self._group, value).orderBy(self._events.moment)
            is_value, steps = moment.isNotNull() & value.isNotNull(), self._steps[name]
            before, after = F.lag(moment).over(same), F.lead(moment).over(same)
            begins, goes = before.isNull(), F.lit(False)
            if steps is not None:
                begins = begins | (moment - before > F.lit(steps))
                goes = after.isNull() | (after - moment > F.lit(steps))
            marks |= {f"{_FIRST}{name}": is_value & begins, f"{_LAST}{name}": is_value & goes}
        return self._rows.withColumns(marks) if marks else self._rows

    # --- Windows.

    def _ties(self) -> list[str]:
        return [self._events.time, *self._tie_breakers, *self._values()]

    def _total(self, group: list[str]) -> WindowSpec:
        """Events in one order: those it leaves open are alike in all that counts."""
        return Window.partitionBy(*group).orderBy(_AT, *self._ties())

    def _earlier(self) -> WindowSpec:
        """Everything before the row's time, rows of that time left out."""
        whole = Window.partitionBy(*self._group).orderBy(_AT)
        return whole.rangeBetween(Window.unboundedPreceding, -1)

    def _of_all_so_far(self) -> dict[str, Column]:
        """For each row: what is made of all events up to it, in order."""
        total = self._total(self._group)
        so_far = total.rowsBetween(Window.unboundedPreceding, Window.currentRow)
        columns: dict[str, Column] = {}
        for name, how in self._history.aggregates.items():
            if name in self._moving or name in self._different or self._by_rows(name):
                continue
            value = self._value_of(how)
            if how.how in ("last", "time_since_last"):
                event = F.struct(
                    value.alias("value"), F.col(self._events.time).alias("time"), F.col(_AT)
                )
                found = F.last(F.when(value.isNotNull(), event), ignorenulls=True)
            else:
                found = MEASURES[how.how](value)
            columns[f"{_FOUND}{name}"] = found.over(so_far)
        return columns

    def _of_last_events(self) -> dict[str, Column]:
        """For each event: what is made of it and those before it."""
        # Sorting what is sorted already is spared where all rows are events.
        group = [*self._group, _EVENT] if self._unfolds else self._group
        total = self._total(group)
        columns: dict[str, Column] = {}
        for name, how in self._history.aggregates.items():
            steps = self._steps[name]
            if isinstance(steps, Rows):
                last_events = total.rowsBetween(1 - steps.count, Window.currentRow)
                columns[f"{_FOUND}{name}"] = self._over_rows(how, last_events)
        for name, lag in self._history.lags.items():
            value = self._value_of(lag)
            earlier = value if lag.rows == 1 else F.lag(value, lag.rows - 1).over(total)
            columns[f"{_FOUND}{name}"] = earlier
        if self._history.sequences:
            longest = max(each.rows for each in self._history.sequences.values())
            said = F.struct(self._events.time, *self._values())
            listed = F.collect_list(F.when(F.col(_EVENT), said))
            columns[_LIST] = listed.over(total.rowsBetween(1 - longest, Window.currentRow))
        return columns

    def _by_rows(self, name: str) -> bool:
        return isinstance(self._steps[name], Rows)

    def _over_rows(self, how: Aggregate, last_events: WindowSpec) -> Column:
        value = self._value_of(how)
        if how.how == "last":
            return F.last(value, ignorenulls=True).over(last_events)
        if how.how == "time_since_last":
            time = F.when(value.isNotNull(), F.col(self._events.time))
            return F.last(time, ignorenulls=True).over(last_events)
        if how.how == "distinct":
            return F.size(F.collect_set(value).over(last_events))
        return MEASURES[how.how](value).over(last_events)

    def _value_of(self, how: Aggregate | Lag) -> Column:
        """The value; where none is named, what every event has."""
        if how.of is None:
            return F.when(F.col(_EVENT), F.lit(True))
        return F.col(self._events.values[how.of])

    # --- What a row is given.

    def _result(self, name: str) -> Column:
        how, found = self._history.outputs[name], f"{_FOUND}{name}"
        if isinstance(how, EventSequence):
            return self._sequence(how)
        if isinstance(how, Lag):
            return F.col(_LATEST).getField(found)
        steps = self._steps[name]
        if isinstance(steps, Rows):
            return self._finished(how.how, F.col(_LATEST).getField(found))
        if name in self._moving or name in self._different:
            return self._finished(how.how, F.col(found))
        value = F.col(_SO_FAR).getField(found)
        if how.how not in ("last", "time_since_last"):
            return self._finished(how.how, value)
        result = self._finished(how.how, value["value"] if how.how == "last" else value["time"])
        return result if steps is None else F.when(value[_AT] >= F.col(_AT) - F.lit(steps), result)

    def _finished(self, how: How, found: Column) -> Column:
        if how in ("count", "distinct"):
            return F.coalesce(found.cast("bigint"), F.lit(0).cast("bigint"))
        return self._since(found) if how == "time_since_last" else found

    def _sequence(self, how: EventSequence) -> Column:
        events = F.col(_LATEST).getField(_LIST)
        first = F.greatest(F.size(events) - how.rows + 1, F.lit(1))
        last = F.slice(events, first, how.rows)
        if how.of is None:
            return F.transform(last, lambda event: self._since(event[self._events.time]))
        return last.getField(self._events.values[how.of])

    def _since(self, time: Column) -> Column:
        """From an earlier time to the row's: seconds, days, or a number."""
        apart = F.col(_AT) - time
        if isinstance(self._events.kind, TimestampType | TimestampNTZType):
            return apart / F.lit(1e6)
        return apart.cast("int") if isinstance(self._events.kind, DateType) else apart


def _moment(at: Column, *, asks: bool = False, event: bool = False, ends: int = _NEVER) -> Column:
    return F.struct(
        at.alias(_AT),
        F.lit(asks).alias(_ASKS),
        F.lit(event).alias(_EVENT),
        F.lit(ends).alias(_ENDS),
    )


def _compact(moments: list[Column]) -> Column:
    return F.filter(F.array(*moments), lambda moment: moment.isNotNull())
