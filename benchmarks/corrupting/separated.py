"""Ways to spoil a CSV file: ragged lines, quotes, headers, values that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.corrupting.good import COLUMNS, ROWS_PER_FILE, csv_lines
from benchmarks.corrupting.scene import Scene, Spoil, Variant, variants
from benchmarks.corrupting.textual import text_variants

Record = Callable[[str], str]


def csv_variants() -> list[Variant]:
    """All variants of CSV."""
    return [
        *text_variants("csv"),
        *variants("csv", "ragged lines", _ragged()),
        *variants("csv", "quotes", _quotes(), trusts_engine=False),
        *variants("csv", "quotes that are text", _literal_quotes()),
        *variants("csv", "header", _headers()),
        *variants("csv", "out of range", _out_of_range()),
        *variants("csv", "huge cell", _huge()),
    ]


def _records(which: Sequence[int], edit: Record) -> Spoil:
    """Some records changed; 0 is the header."""

    def spoil(scene: Scene) -> None:
        records = csv_lines(scene.rows)
        told = [edit(each) if place in which else each for place, each in enumerate(records)]
        scene.replace("".join(f"{record}\n" for record in told).encode())

    return spoil


def _ragged() -> dict[str, Spoil]:
    tail = ROWS_PER_FILE
    return {
        "one field less": _records([7, 50], lambda it: it.split(",", 1)[1]),
        "one field only": _records([7], lambda _: "5"),
        "one field more": _records([7, 50], lambda it: f"{it},more"),
        "one separator more": _records([7], lambda it: f"{it},"),
        "many fields more": _records([7], lambda it: it + ",x" * 1_000),
        "first record": _records([1], lambda it: f"{it},more"),
        "last record": _records([tail], lambda it: it.split(",", 1)[1]),
        "every record": _records(range(1, tail + 1), lambda it: f"{it},more"),
        "a comment": _records([7], lambda it: f"# comment\n{it}"),
        "other separator": _records(range(tail + 1), lambda it: it.replace(",", ";")),
        "other separator late": _records([tail], lambda it: it.replace(",", ";")),
    }


def _quotes() -> dict[str, Spoil]:
    opened = _named('"never closed')
    return {
        "opened early": _records([7], opened),
        "opened in the midst": _records([60], opened),
        "opened at the end": _records([ROWS_PER_FILE], opened),
        "opened at the first field": _records([7], lambda it: f'"{it}'),
        "in the header": _records([0], lambda it: f'"{it}'),
        "behind a closed field": _records([7], _named('"a" b')),
        "not doubled": _records([7], _named('"a "b" c"')),
        "by backslash": _records([7], _named('"a \\" b"')),
    }


def _literal_quotes() -> dict[str, Spoil]:
    return {
        "within an open field": _records([7], _named('an 8" disk')),
        "single": _records([7], _named("'a b'")),
        "single, with a comma": _records([7], _named("'a, b'")),
        "typographic, with a comma": _records([7], _named("“a, b”")),
    }


def _named(text: str) -> Record:
    """A record with another last field, as it stands."""
    first = len(COLUMNS) - 1  # no comma is in their values
    return lambda record: ",".join([*record.split(",")[:first], text])


def _headers() -> dict[str, Spoil]:
    head = ",".join(COLUMNS)

    def header(edit: Record) -> Spoil:
        return _records([0], edit)

    return {
        "only": lambda scene: scene.replace(f"{head}\n".encode()),
        "only, without line break": lambda scene: scene.replace(head.encode()),
        "none": lambda scene: scene.replace("\n".join(csv_lines(scene.rows)[1:]).encode()),
        "twice": header(lambda it: f"{it}\n{it}"),
        "in the midst again": _records([60], lambda it: f"{head}\n{it}"),
        "a name twice": header(lambda it: it.replace("month", "id")),
        "a name twice, the column more": _records(
            range(ROWS_PER_FILE + 1), lambda it: f"{it.split(',', 1)[0]},{it}"
        ),
        "a name twice but for case": header(lambda it: it.replace("month", "ID")),
        "a name missing": header(lambda it: it.replace(",month", "")),
        "a column missing": lambda scene: scene.replace(
            "\n".join(csv_lines(scene.rows, [n for n in COLUMNS if n != "amount"])).encode()
        ),
        "a name empty": header(lambda it: it.replace("month", "")),
        "in capitals": header(str.upper),
        "with spaces": header(lambda it: it.replace(",", ", ")),
        "in another order": lambda scene: scene.replace(
            "\n".join(csv_lines(scene.rows, COLUMNS[::-1])).encode()
        ),
        "quoted": header(lambda it: ",".join(f'"{name}"' for name in it.split(","))),
        "a blank line before": header(lambda it: f"\n{it}"),
        "a title before": header(lambda it: f"Report of May\n{it}"),
    }


def _out_of_range() -> dict[str, Spoil]:
    def value(column: str, text: str) -> Spoil:
        place = COLUMNS.index(column)

        def edit(record: str) -> str:
            fields = record.split(",")
            return ",".join([*fields[:place], text, *fields[place + 1 :]])

        return _records([3, 70], edit)

    return {
        "id of 2^63": value("id", "9223372036854775808"),
        "id of 40 digits": value("id", "1" * 40),
        "id with a fraction": value("id", "1000250.5"),
        "id in scientific notation": value("id", "1E6"),
        "month of 2^31": value("month", "2147483648"),
        "amount of 1e400": value("amount", "1e400"),
        "amount of a million digits": value("amount", "1" * 1_000_000),
        "amount with a suffix": value("amount", "12.5d"),
        "amount of another alphabet": value("amount", "٣٤"),
        "flag of 2": value("flag", "2"),
        "day of February 30": value("day", "2013-02-30"),
        "day of a year of 6 digits": value("day", "123456-01-01"),
        "day of a year only": value("day", "2013"),
        "day with more behind": value("day", "2013-01-01 and more"),
        "at of 25 hours": value("at", "2013-01-01T25:00:00"),
        "at of an hour only": value("at", "05:00"),
        "at of the year 300000": value("at", "300000-01-01T00:00:00Z"),
        "id of nothing": value("id", ""),
        "id of spaces": value("id", "   "),
    }


def _huge() -> dict[str, Spoil]:
    return {
        "4 MB": _records([7], _named("é" * 2_000_000)),
        "4 MB of lines": _records([7], _named('"' + "line\n" * 800_000 + '"')),
        "4 MB of separators": _records([7], _named("," * 4_000_000)),
        "4 MB never closed": _records([7], _named('"' + "x" * 4_000_000)),
        "4 MB of quotes": _records([7], _named('"' * 4_000_000)),
    }
