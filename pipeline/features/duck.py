"""Spark SQL expressions as DuckDB writes them, for features without Spark.

sqlglot translates the syntax and most functions; where the two engines mean different things by one
name, a rule of `_RULES` says what Spark means. Nothing here is trusted: `proof.py` compares both on
the pipeline's own rows, and what does not agree is not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from pyspark.sql.types import DataType, FractionalType, StringType
from sqlglot import ErrorLevel, exp, parse_one
from sqlglot.errors import SqlglotError

from pipeline.features.casing import LOWER, UPPER

_WHOLE = r"[+-]?[0-9]+"
_FRACTION = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:nan|[+-]?inf(inity)?)"
_BLANKS = "".join(map(chr, range(1, 33)))


class UntranslatableError(ValueError):
    """An expression that has no counterpart."""


TypeOf = Callable[[str], DataType | None]
"""From a Spark SQL expression to its type; None where that is not known."""


def translated(text: str, type_of: TypeOf = lambda _: None) -> str:
    """A Spark SQL expression in DuckDB's SQL; null where evaluating it is an error.

    Args:
        text: The expression.
        type_of: Tells the type of a part of it.

    Raises:
        UntranslatableError: It cannot be parsed, or holds what DuckDB has no name for.
    """
    try:
        tree = parse_one(text, read="spark")
        casts = [*tree.find_all(exp.Cast)]  # `try_cast` is one, too
        kinds = [type_of(node.this.sql("spark")) for node in casts]
        for each, kind in reversed([*zip(casts, kinds, strict=True)]):  # from within
            each.set("this", _cast_operand(each, kind))
        for node in reversed([*tree.walk()]):
            made = _rewritten(cast("exp.Expression", node))
            if node is tree:
                tree = made
            elif made is not node:
                node.replace(made)
        # An approximation would be used silently: it is refused instead.
        return f"try({tree.sql('duckdb', unsupported_level=ErrorLevel.RAISE)})"
    except SqlglotError as error:
        raise UntranslatableError(" ".join(str(error).split())[:200]) from error


def names_in(text: str) -> set[str]:
    """Names that may be of columns in a Spark SQL expression; too many do no harm."""
    try:
        parts = (column.parts for column in parse_one(text, read="spark").find_all(exp.Column))
        return {part.name for each in parts for part in each}
    except SqlglotError:
        return {*re.findall(r"\w+", text), *re.findall(r"`([^`]*)`", text)}


def _rewritten(node: exp.Expression) -> exp.Expression:
    name = node.name.lower() if isinstance(node, exp.Anonymous) else type(node).__name__
    rule = _RULES.get(name)
    if rule is None:
        return node
    arguments = node.expressions if isinstance(node, exp.Anonymous) else _arguments(node)
    made = parse_one(rule(*(each.sql("duckdb") for each in arguments)), read="duckdb")
    return cast("exp.Expression", made)


def _cast_operand(node: exp.Cast, kind: DataType | None) -> exp.Expression:
    """What a cast is given, so that DuckDB makes of it what Spark does.

    Spark cuts decimals off, where DuckDB rounds; of text it takes whole numbers only as such, and
    of fractions the forms that Java knows.
    """
    given = node.this
    if not node.is_type(*exp.DataType.INTEGER_TYPES, "float", "double"):
        return cast("exp.Expression", given)
    if kind is None:
        raise UntranslatableError(f"{given.sql('spark')} has no type that is known")
    whole = node.is_type(*exp.DataType.INTEGER_TYPES)
    if isinstance(kind, StringType):
        form = _WHOLE if whole else _FRACTION
        text = exp.func("trim", given.copy(), exp.Literal.string(_BLANKS), dialect="duckdb")
        return exp.case().when(exp.func("regexp_full_match", text, exp.Literal.string(form)), text)
    if whole and isinstance(kind, FractionalType):
        return cast("exp.Expression", exp.func("trunc", given))
    return cast("exp.Expression", given)


def _arguments(node: exp.Expression) -> list[Any]:
    listed: list[Any] = []
    for value in node.args.values():
        listed += value if isinstance(value, list) else [value]
    return [each for each in listed if isinstance(each, exp.Expression)]


def _refused(*_: str) -> str:
    # The two agree on most values, so that the rows of a proof may not show it.
    raise UntranslatableError("differs for some values")


def _or_zero(made: str, x: str) -> str:
    return f"(CASE WHEN isnan(CAST({x} AS DOUBLE)) THEN 0 ELSE TRY_CAST({made} AS BIGINT) END)"


_RULES: Mapping[str, Callable[..., str]] = {
    # Never negative, unlike %.
    "pmod": lambda a, b: (
        f"(CASE WHEN ({a}) % ({b}) < 0 THEN (({a}) % ({b}) + ({b})) % ({b}) ELSE ({a}) % ({b}) END)"
    ),
    # Sunday is 1 to Spark and 0 to DuckDB; Monday is 0 to Spark's `weekday`.
    "DayOfWeek": lambda day: f"(date_part('dow', {day}) + 1)",
    "weekday": lambda day: f"(date_part('isodow', {day}) - 1)",
    # From 0 on; null where there is none.
    "get": lambda array, at: f"(CASE WHEN ({at}) >= 0 THEN ({array})[({at}) + 1] END)",
    "Format": lambda form, *values: f"printf({', '.join((form, *values))})",
    # As Unicode has it, which DuckDB does not for one letter that becomes several: see `casing.py`.
    "Upper": lambda text: f"{UPPER}({text})",
    "Lower": lambda text: f"{LOWER}({text})",
    # Whole numbers of 64 bits; of NaN, Java makes 0.
    "Floor": lambda x: _or_zero(f"floor({x})", x),
    "Ceil": lambda x: _or_zero(f"ceil({x})", x),
    # NaN for NaN.
    "Sign": lambda x: f"(CASE WHEN isnan(CAST({x} AS DOUBLE)) THEN {x} ELSE sign({x}) END)",
    # False for null.
    "IsNan": lambda x: f"coalesce(isnan({x}), false)",
    # 2.675 is 2.68 to two places, by its decimal digits, and 2.67 by its binary ones.
    "Round": lambda x, *places: _refused() if places else f"round({x})",
    # Null where bits are lost or the number is negative, not what is left.
    "BitwiseLeftShift": _refused,
    # Months that begin, not whole ones.
    "TimestampDiff": _refused,
    "isnull": lambda value: f"(({value}) IS NULL)",
    "isnotnull": lambda value: f"(({value}) IS NOT NULL)",
    # Null below the domain, not an infinity.
    "Log": lambda base, x: f"(CASE WHEN ({x}) > 0 THEN log({base}, {x}) END)",
    "Ln": lambda x: f"(CASE WHEN ({x}) > 0 THEN ln({x}) END)",
    "log1p": lambda x: f"(CASE WHEN ({x}) > -1 THEN ln(1 + ({x})) END)",
}
"""Name of sqlglot's node, or of a function unknown to it -> DuckDB's SQL of its arguments."""
