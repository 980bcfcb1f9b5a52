"""Types of columns as the contract spells them: Spark SQL's, read without Spark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

# Spark's atomic types that a Delta table can hold. Intervals, times of day and variants it cannot.
ATOMIC = (
    "string",
    "boolean",
    "tinyint",
    "smallint",
    "int",
    "bigint",
    "float",
    "double",
    "date",
    "timestamp",
    "timestamp_ntz",
    "binary",
)
_ALIASES = {"byte": "tinyint", "short": "smallint", "integer": "int", "long": "bigint"}
_ALIASES |= {"real": "float", "dec": "decimal", "numeric": "decimal", "timestamp_ltz": "timestamp"}
_ALLOWED = f"{', '.join(ATOMIC)}, decimal(p,s), array<...>, map<...>, struct<name: type, ...>"
_LARGEST_PRECISION = 38
_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|`([^`]+)`|(\d+)|([<>(),:]))")
_DEEPEST = 32


@dataclass(frozen=True)
class Atomic:
    """A type without parts, such as `int`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Decimal:
    """Exact numbers of so many digits, some of them behind the point."""

    precision: int
    scale: int

    def __str__(self) -> str:
        return f"decimal({self.precision},{self.scale})"


@dataclass(frozen=True)
class Array:
    """Any number of values of one type."""

    element: Type

    def __str__(self) -> str:
        return f"array<{self.element}>"


@dataclass(frozen=True)
class Map:
    """Keys to values."""

    key: Type
    value: Type

    def __str__(self) -> str:
        return f"map<{self.key},{self.value}>"


@dataclass(frozen=True)
class Struct:
    """Fields by name, in order."""

    fields: tuple[tuple[str, Type], ...]

    def __str__(self) -> str:
        return f"struct<{','.join(f'`{name}`:{kind}' for name, kind in self.fields)}>"


Type: TypeAlias = Atomic | Decimal | Array | Map | Struct


def parse_type(text: str) -> Type:
    """Reads a type such as `int` or `struct<age: int, tags: array<string>>`.

    Raises:
        ValueError: It is no type of Spark SQL, or none that a table can hold.
    """
    reader = _Reader(text)
    kind = reader.type(0)
    reader.end()
    return kind


def is_nested(kind: Type) -> bool:
    """Whether a type has parts."""
    return isinstance(kind, Array | Map | Struct)


def is_orderable(kind: Type) -> bool:
    """Whether Spark can compare two values of a type, so that it can be part of a key."""
    if isinstance(kind, Array):
        return is_orderable(kind.element)
    if isinstance(kind, Struct):
        return all(is_orderable(each) for _, each in kind.fields)
    return not isinstance(kind, Map)


def atoms(kind: Type) -> Iterator[Atomic | Decimal]:
    """The types at the ends of a type, left to right."""
    if isinstance(kind, Array):
        yield from atoms(kind.element)
    elif isinstance(kind, Map):
        yield from atoms(kind.key)
        yield from atoms(kind.value)
    elif isinstance(kind, Struct):
        for _, each in kind.fields:
            yield from atoms(each)
    else:
        yield kind


class _Reader:
    """Reads one type from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._cut()

    def type(self, depth: int) -> Type:
        if depth > _DEEPEST:
            raise ValueError(f"is nested more than {_DEEPEST} deep")
        word = self._next().lower()
        name = _ALIASES.get(word, word)
        if name in ATOMIC:
            return Atomic(name)
        if name == "decimal":
            return self._decimal()
        if name == "array":
            self._expect("<")
            element = self.type(depth + 1)
            self._expect(">")
            return Array(element)
        if name == "map":
            self._expect("<")
            key = self.type(depth + 1)
            self._expect(",")
            value = self.type(depth + 1)
            self._expect(">")
            return Map(key, value)
        if name == "struct":
            return self._struct(depth)
        raise self._fault()

    def end(self) -> None:
        if self._tokens:
            raise self._fault()

    def _decimal(self) -> Decimal:
        if self._tokens[:1] != ["("]:
            return Decimal(10, 0)  # as Spark SQL reads it
        self._expect("(")
        precision, scale = self._number(), 0
        if self._tokens[:1] == [","]:
            self._expect(",")
            scale = self._number()
        self._expect(")")
        if not 0 < precision <= _LARGEST_PRECISION or scale > precision:
            raise ValueError(
                f"decimal({precision},{scale}) has more digits than {_LARGEST_PRECISION}, or more "
                "behind the point than in all"
            )
        return Decimal(precision, scale)

    def _struct(self, depth: int) -> Struct:
        fields: dict[str, Type] = {}
        self._expect("<")
        while True:
            name = self._next()
            self._expect(":")
            if name in fields:
                raise ValueError(f"struct has the field {name!r} twice")
            fields[name] = self.type(depth + 1)
            if self._tokens[:1] != [","]:
                break
            self._expect(",")
        self._expect(">")
        return Struct(tuple(fields.items()))

    def _next(self) -> str:
        if not self._tokens:
            raise self._fault()
        return self._tokens.pop(0)

    def _expect(self, wanted: str) -> None:
        if self._next() != wanted:
            raise self._fault()

    def _number(self) -> int:
        text = self._next()
        if not text.isdecimal():
            raise self._fault()
        return int(text)

    def _cut(self) -> list[str]:
        tokens, at = [], 0
        text = self._text.strip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._fault()
            tokens.append(next(group for group in match.groups() if group is not None))
            at = match.end()
        return tokens

    def _fault(self) -> ValueError:
        return ValueError(f"{self._text!r} is no type; allowed: {_ALLOWED}")
