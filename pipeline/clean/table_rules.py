"""Rules about tables, and when they are broken.

`KINDS` says of each kind of rule what it needs: values that rows at fault are among, columns that
must be a key, or a measure that is taken while the rows are written. A new kind is an entry there
and a class of settings in `pipeline/config/table_rules.py`.

Rules look at the rows that the contract, the rules about rows and `clean.dedupe` let pass; all
rules at the same ones, whatever their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from operator import and_, or_
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType, StructType

from pipeline.clean.contract import REASONS, reasons_of, typed
from pipeline.clean.joins import require_same_types
from pipeline.clean.profile import Observed, counted, shortened, top_values
from pipeline.clean.uniqueness import Shared, doubled, is_made_unique, shared
from pipeline.clean.verdict import (
    CLEAN,
    DROP,
    DROPPED_BY,
    QUARANTINE,
    VERDICT,
    breaks_column,
    table_reason,
)
from pipeline.config import (
    Distribution,
    Files,
    Freshness,
    Nulls,
    Pipeline,
    Reference,
    RowCount,
    TableRule,
)
from pipeline.errors import RuleError
from pipeline.sources.format import Rows as RawRows
from pipeline.stability import psi_of_categories, psi_of_values

MOST_BINS = 10_000
MOST_CATEGORIES = 200
"""Values of a text column whose rows are stored, to compare the next version with."""
_TRACKED = 16_384
_BINS_PER_OCTAVE = 8
_OFFSET = 16_384
"""Makes the bin of the smallest positive number positive."""


@dataclass(frozen=True)
class Rights:
    """Files outside the lake that rules compare with."""

    spark: SparkSession
    pipeline: Pipeline
    found: Mapping[str, RawRows]
    """By the name of the join, or by `own_files` of the rule."""


@dataclass(frozen=True)
class Match:
    """Which rows are at fault: those whose values are among some, or are not."""

    values: DataFrame
    """Each once."""
    on: Mapping[str, str]
    """Column of the rows to column of the values; a row with a null there is never at fault."""
    fault: bool
    """Whether it is a fault to be among them."""


@dataclass(frozen=True)
class Seen:
    """All that a rule may judge by."""

    observed: Observed
    """Of the accepted rows, once they are written."""
    now: datetime
    before: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Column and measure to value, of the last accepted version."""
    shared: Mapping[tuple[str, ...], Shared] = field(default_factory=dict)
    """Columns to the keys that rows share, where they do."""


@dataclass(frozen=True)
class Judgement:
    """What a rule says of a table."""

    problem: str | None = None
    """None where the rule holds."""
    rows: int | None = None
    """Rows at fault, where the kind can count them."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Further measures for `quality`."""


@dataclass(frozen=True)
class Kind:
    """What a kind of rule needs; each is given the setting of that name."""

    match: Callable[[Any, str, DataFrame, Rights, DataFrame | None], Match] | None = None
    """Tells rows at fault: by the rule's name, rows, right sides and rows that are there."""
    fault: str = "are at fault"
    """What such rows do, for messages."""
    key: Callable[[Any], tuple[str, ...]] | None = None
    """Columns that must be a key, where no single row is taken out."""
    measure: Callable[[Any, StructType], tuple[str, Column]] | None = None
    """What is observed of the accepted rows, by a word and a column."""
    judge: Callable[[Any, Seen], Judgement] | None = None
    """Judges by what was seen."""
    ages: bool = False
    """Whether time alone can break the rule."""


@dataclass(frozen=True)
class Finding:
    """A rule and its judgement."""

    name: str
    rule: TableRule
    judgement: Judgement

    @property
    def is_warning(self) -> bool:
        """Whether the rule is broken, and the run goes on."""
        return self.judgement.problem is not None and self.rule.consequence.warns


def own_files(name: str) -> str:
    """What stands for a rule's own files among those of the joins."""
    return f"table_rules.{name}"


def is_judged_by_row(rule: TableRule) -> bool:
    """Whether the rule tells which rows are at fault."""
    kind = KINDS[rule.kind]
    return kind.match is not None and (rule.takes_rows_out or kind.key is None)


def with_table_rules(
    frame: DataFrame, rights: Rights, present: DataFrame | None = None
) -> DataFrame:
    """Adds a column a rule that is judged by row, and takes out the rows at fault.

    Args:
        frame: Rows with their verdict.
        rights: Files that rules compare with.
        present: Rows of `clean` that stay beside these.
    """
    rules = {n: r for n, r in rights.pipeline.clean.table_rules.items() if is_judged_by_row(r)}
    # They are judged again where rows that stay turn out to be others.
    flagged = frame.drop(*map(breaks_column, rules))
    for name, rule in rules.items():
        match = KINDS[rule.kind].match
        if match is not None:
            found = match(rule.setting, name, frame, rights, present)
            flagged = _with_faults(flagged, found, breaks_column(name))
    taken = {name: rule for name, rule in rules.items() if rule.takes_rows_out}
    return _with_verdict(flagged, taken) if taken else flagged


def _with_faults(frame: DataFrame, match: Match, flag: str) -> DataFrame:
    """Adds whether a row that passed everything else is at fault."""
    keys = {right: f"_key_{index}" for index, right in enumerate(match.on.values())}
    values = match.values.select(
        *(F.col(right).alias(key) for right, key in keys.items()), F.lit(True).alias(flag)
    )
    same = reduce(and_, (F.col(left) == F.col(keys[right]) for left, right in match.on.items()))
    complete = reduce(and_, (F.col(left).isNotNull() for left in match.on))
    among = F.coalesce(F.col(flag), F.lit(False))
    fault = among if match.fault else ~among
    joined = frame.join(values, same, "left").drop(*keys.values())
    return joined.withColumn(flag, (F.col(VERDICT) == CLEAN) & complete & fault)


def _with_verdict(frame: DataFrame, taken: Mapping[str, TableRule]) -> DataFrame:
    flags = {name: F.col(breaks_column(name)) for name in taken}
    goes_to = {name: rule.consequence.verdict for name, rule in taken.items()}
    quarantining = [flags[name] for name, verdict in goes_to.items() if verdict == QUARANTINE]
    rejected = reduce(or_, quarantining, F.lit(False))
    dropped_by = F.coalesce(
        F.lit(None).cast("string"),
        *(F.when(flags[n], F.lit(table_reason(n))) for n, to in goes_to.items() if to == DROP),
    )
    dropped = ~rejected & dropped_by.isNotNull()
    reasons = reasons_of({table_reason(name): flag for name, flag in flags.items()})
    return frame.withColumns(
        {
            VERDICT: F.when(rejected, QUARANTINE).when(dropped, DROP).otherwise(F.col(VERDICT)),
            DROPPED_BY: F.when(dropped, dropped_by).otherwise(F.col(DROPPED_BY)),
            REASONS: F.concat(REASONS, reasons),
        }
    )


def table_measures(pipeline: Pipeline, schema: StructType) -> dict[str, Column]:
    """What rules need observed of the accepted rows, by a word and a column."""
    found = {}
    for rule in pipeline.clean.table_rules.values():
        measure = KINDS[rule.kind].measure
        if measure is not None:
            name, column = measure(rule.setting, schema)
            found[name] = column
    return found


def shared_by_rules(
    good: DataFrame, pipeline: Pipeline, present: DataFrame | None
) -> dict[tuple[str, ...], Shared]:
    """Columns that must be a key to what rows share; each an aggregate of these columns alone."""
    found = {}
    for rule in pipeline.clean.table_rules.values():
        key = KINDS[rule.kind].key
        if key is None or rule.takes_rows_out:
            continue
        columns = key(rule.setting)
        if not is_made_unique(pipeline.clean, columns):
            complete = good.dropna(subset=list(columns))
            result = shared(doubled(complete, columns, present), columns, pipeline.is_sensitive)
            if result is not None:
                found[columns] = result
    return found


def ageing(rules: Mapping[str, TableRule]) -> dict[str, TableRule]:
    """The rules that a table may break without having changed."""
    return {name: rule for name, rule in rules.items() if KINDS[rule.kind].ages}


def judged_tables(rules: Mapping[str, TableRule], seen: Seen) -> list[Finding]:
    """Judges those rules that are not judged by row.

    Raises:
        RuleError: One is broken whose action ends the run.
    """
    found = []
    for name, rule in rules.items():
        judge = KINDS[rule.kind].judge
        if judge is not None and not is_judged_by_row(rule):
            found.append(Finding(name, rule, judge(rule.setting, seen)))
            problem = found[-1].judgement.problem
            if problem is not None and rule.consequence.ends_run(1, 1):
                raise _refused(name, rule, problem)
    return found


def refuse_rows(name: str, rule: TableRule, failing: int, rows: int) -> None:
    """Raises RuleError where more rows are at fault than the rule's action lets pass."""
    if rule.consequence.ends_run(failing, rows):
        raise _refused(name, rule, f"{failing:,} of {rows:,} rows {KINDS[rule.kind].fault}")


def _refused(name: str, rule: TableRule, problem: str) -> RuleError:
    return RuleError(
        f"clean.table_rules.{name}",
        f"{problem}; the rule's action is {rule.consequence.told}",
        "Nothing was committed; correct the raw files, or choose another action.",
    )


# What the kinds need.


def _doubled_rows(
    columns: tuple[str, ...],
    _: str,
    frame: DataFrame,
    __: Rights,
    present: DataFrame | None,
) -> Match:
    passed = frame.where(F.col(VERDICT) == CLEAN).dropna(subset=list(columns))
    return Match(doubled(passed, columns, present), {name: name for name in columns}, fault=True)


def _judge_unique(columns: tuple[str, ...], seen: Seen) -> Judgement:
    found = seen.shared.get(columns)
    if found is None:
        return Judgement()
    what = f"{found.rows:,} rows share {found.keys:,} keys of {', '.join(columns)}"
    return Judgement(f"{what}, such as {found.example}", found.rows)


def _right_values(
    reference: Reference, name: str, frame: DataFrame, rights: Rights, _: DataFrame | None
) -> Match:
    files: Files = reference
    place, on = own_files(name), reference.on
    if reference.join is not None:
        join = rights.pipeline.clean.joins[reference.join]
        files, place, on = join, reference.join, join.on
    rows = rights.found[place]
    groups = [
        typed(group, rows.files.columns, files.time_zone) for group in rows.frames(rights.spark)
    ]
    right = reduce(DataFrame.unionByName, groups)
    require_same_types(frame, right, on.items(), f"clean.table_rules.{name}.reference")
    columns = list(dict.fromkeys(on.values()))
    return Match(right.select(*columns).dropna().distinct(), on, fault=False)


def _newest(settings: Freshness, _: StructType) -> tuple[str, Column]:
    stamp = F.col(f"`{settings.column}`").cast("timestamp")
    return f"newest {settings.column}", F.max(F.unix_micros(stamp)) / 1e6


def _judge_freshness(settings: Freshness, seen: Seen) -> Judgement:
    known = (
        seen.observed.get(f"newest {settings.column}"),
        seen.before.get((settings.column, "newest")),
    )
    newest = max((each for each in known if each is not None), default=None)
    if newest is None:
        return Judgement(f"no row has a value of {settings.column}")
    then = datetime.fromtimestamp(newest, UTC)
    if seen.now - then <= settings.span:
        return Judgement()
    return Judgement(
        f"the newest {settings.column} is {then:%Y-%m-%d %H:%M:%S}, more than {settings.within} "
        f"before {seen.now:%Y-%m-%d %H:%M:%S} (UTC)"
    )


def _judge_rows(settings: RowCount, seen: Seen) -> Judgement:
    rows = int(seen.observed.get("rows") or 0)
    if settings.minimum is not None and rows < settings.minimum:
        return Judgement(f"{rows:,} rows are fewer than {settings.minimum:,}")
    if settings.maximum is not None and rows > settings.maximum:
        return Judgement(f"{rows:,} rows are more than {settings.maximum:,}")
    return Judgement()


def _judge_nulls(settings: Nulls, seen: Seen) -> Judgement:
    rows = int(seen.observed.get("rows") or 0)
    nulls = int(seen.observed.get(f"nulls {settings.column}") or 0)
    if not rows or nulls / rows <= settings.maximum_share:
        return Judgement()
    what = f"{nulls:,} of {rows:,} values of {settings.column} are null"
    return Judgement(f"{what}, a share of more than {settings.maximum_share:g}", nulls)


def _spread(settings: Distribution, schema: StructType) -> tuple[str, Column]:
    kind, value = schema[settings.column].dataType, F.col(f"`{settings.column}`")
    if isinstance(kind, NumericType):
        bins = top_values(bin_of(value.cast("double")), MOST_BINS, _TRACKED)
        return f"bins {settings.column}", bins
    categories = top_values(shortened(value, kind), MOST_CATEGORIES, _TRACKED)
    return f"categories {settings.column}", categories


def bin_of(number: Column) -> Column:
    """The bin of a number: an eighth of the power of two that it lies in; bins ascend as numbers.

    They never move, so that the counts of two versions can be compared whatever is in them. Where
    a logarithm is rounded to the next power of two, the quotient makes up for it.
    """
    size = F.abs(number)
    octave = F.floor(F.log2(size))
    step = F.floor(size / F.pow(F.lit(2.0), octave) * _BINS_PER_OCTAVE) - _BINS_PER_OCTAVE
    place = (octave * _BINS_PER_OCTAVE + step + _OFFSET).cast("int")
    infinite = F.lit(2 * _OFFSET)
    bin_ = F.when(size == 0, F.lit(0)).when(size == float("inf"), infinite).otherwise(place)
    return F.when(number < 0, -bin_).otherwise(bin_)


def _judge_distribution(settings: Distribution, seen: Seen) -> Judgement:
    for word, index in (("bins", _psi_of_bins), ("categories", _psi_of_texts)):
        now = dict(counted(seen.observed.get(f"{word} {settings.column}") or []))
        before = {
            measure.removeprefix(f"{word}: "): int(rows)
            for (column, measure), rows in seen.before.items()
            if column == settings.column and measure.startswith(f"{word}: ")
        }
        if now and before:
            psi = index(before, now)
            told = f"PSI of {settings.column} against the last version is {psi:.3g}"
            broken = f"{told}, more than {settings.maximum_psi:g}"
            return Judgement(broken if psi > settings.maximum_psi else None, measures={"psi": psi})
    return Judgement()  # nothing to compare, or to compare with


def _psi_of_bins(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    training, scored = ({int(bin_): n for bin_, n in side.items()} for side in (before, now))
    return psi_of_values(training, scored)


def _psi_of_texts(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    ids = {text: id_ for id_, text in enumerate(sorted({*before, *now}))}
    training, scored = ({ids[text]: n for text, n in side.items()} for side in (before, now))
    return psi_of_categories(training, scored)


KINDS: Mapping[str, Kind] = {
    "unique": Kind(match=_doubled_rows, fault="share keys", key=tuple, judge=_judge_unique),
    "reference": Kind(match=_right_values, fault="have values that the right side lacks"),
    "freshness": Kind(measure=_newest, judge=_judge_freshness, ages=True),
    "rows": Kind(judge=_judge_rows),
    "nulls": Kind(judge=_judge_nulls),
    "distribution": Kind(measure=_spread, judge=_judge_distribution),
}
"""Kind of rule to what it needs."""
