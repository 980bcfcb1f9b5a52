"""Ways to spoil a file of JSON lines: arrays, depth, keys, half a line, values that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.corrupting.good import ROWS_PER_FILE, json_lines, json_values
from benchmarks.corrupting.scene import Scene, Spoil, Variant, variants
from benchmarks.corrupting.textual import edited, text_variants


def json_variants() -> list[Variant]:
    """All variants of JSON."""
    return [
        *text_variants("json"),
        *variants("json", "half a line", _halves()),
        *variants("json", "no lines", _arrays()),
        *variants("json", "deep", _deep()),
        *variants("json", "keys", _keys()),
        *variants("json", "out of range", _out_of_range()),
        *variants("json", "huge cell", _huge()),
        *variants("json", "syntax", _syntax()),
    ]


def _lines(which: Sequence[int], edit: Callable[[str], str]) -> Spoil:
    """Some lines changed."""

    def spoil(scene: Scene) -> None:
        lines = json_lines(scene.rows)
        told = [edit(each) if place in which else each for place, each in enumerate(lines)]
        scene.replace("".join(f"{line}\n" for line in told).encode())

    return spoil


def _value(column: str, literal: str) -> Spoil:
    """Some rows' value of a column replaced by a text, as it stands."""
    mark = "a value that is nowhere else"

    def edit(line: str) -> str:
        return json.dumps(json.loads(line) | {column: mark}).replace(f'"{mark}"', literal)

    return _lines([3, 70], edit)


def _halves() -> dict[str, Spoil]:
    def cut(lost: int) -> Spoil:
        return edited(lambda content: content[:-lost])

    return {
        "1 letter": cut(2),
        "a quarter": cut(40),
        "all but a brace": _lines([ROWS_PER_FILE - 1], lambda _: "{"),
        "in the midst": _lines([50], lambda line: line[: len(line) // 2]),
        "two lines in one": _lines([50], lambda line: line[: len(line) // 2] + line),
    }


def _arrays() -> dict[str, Spoil]:
    def told(make: Callable[[list[dict[str, Any]]], str]) -> Spoil:
        return lambda scene: scene.replace(make([json_values(row) for row in scene.rows]).encode())

    return {
        "an array in one line": told(json.dumps),
        "an array in lines": told(lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"),
        "an array with indents": told(lambda rows: json.dumps(rows, indent=2)),
        "an object with indents": told(lambda rows: json.dumps(rows[0], indent=2)),
        "rows within an object": told(lambda rows: json.dumps({"rows": rows})),
        "columns": told(
            lambda rows: json.dumps({key: [row[key] for row in rows] for key in rows[0]})
        ),
        "an array a line": _lines([5], lambda line: f"[{line}]"),
        "two objects a line": _lines([5], lambda line: line + line.replace("10002", "10009")),
        "two objects and a comma": _lines([5], lambda line: f"{line},{line}"),
        "words behind an object": _lines([5], lambda line: f"{line} and more"),
        "a number": _lines([5], lambda _: "5"),
        "a text": _lines([5], lambda _: '"five"'),
        "null": _lines([5], lambda _: "null"),
        "an empty object": _lines([5], lambda _: "{}"),
        "an empty array": _lines([5], lambda _: "[]"),
    }


def _deep() -> dict[str, Spoil]:
    def arrays(depth: int) -> str:
        return "[" * depth + "]" * depth

    def objects(depth: int) -> str:
        return '{"a":' * depth + "1" + "}" * depth

    depths = (50, 999, 1_001, 100_000)
    within = {f"{depth} arrays in a value": _value("amount", arrays(depth)) for depth in depths}
    named = {f"{depth} objects in a name": _value("name", objects(depth)) for depth in depths}
    return (
        within
        | named
        | {
            "1,000,000 brackets open": _lines([5], lambda _: "[" * 1_000_000),
            "2,000 arrays around a line": _lines([5], lambda it: "[" * 2_000 + it + "]" * 2_000),
            "5,000 deep in a column unasked": _value("month", f'1, "more": {objects(5_000)}'),
        }
    )


def _keys() -> dict[str, Spoil]:
    def without(key: str) -> Spoil:
        def edit(line: str) -> str:
            return json.dumps({name: it for name, it in json.loads(line).items() if name != key})

        return _lines(range(ROWS_PER_FILE), edit)

    return {
        "twice, alike": _value("month", '2, "month": 2'),
        "twice, unlike": _value("month", '2, "month": 3'),
        "twice, the last one null": _value("month", '2, "month": null'),
        "twice but for case": _value("month", '2, "MONTH": 3'),
        "missing everywhere": without("amount"),
        "required one missing": without("id"),
        "missing in a row": _lines([3], lambda line: line.replace('"amount"', '"sum"')),
        "empty": _lines([3], lambda line: line.replace('"amount"', '""')),
        "unquoted": _lines([3], lambda line: line.replace('"amount"', "amount")),
        "in capitals": _lines(range(ROWS_PER_FILE), lambda line: line.replace('"id"', '"ID"')),
        "of the corrupt record": _value("month", '2, "_malformed": "x"'),
    }


def _out_of_range() -> dict[str, Spoil]:
    return {
        "id of 2^63": _value("id", "9223372036854775808"),
        "id of 5,000 digits": _value("id", "1" * 5_000),
        "id with a fraction": _value("id", "1000250.5"),
        "id of a whole fraction": _value("id", "1000250.0"),
        "id of true": _value("id", "true"),
        "id of a text": _value("id", '"x"'),
        "month of 2^31": _value("month", "2147483648"),
        "month of an object": _value("month", '{"a": 1}'),
        "amount of 1e400": _value("amount", "1e400"),
        "amount of 1e-400": _value("amount", "1e-400"),
        "amount of NaN": _value("amount", "NaN"),
        "amount of Infinity": _value("amount", "-Infinity"),
        "amount of 007": _value("amount", "007"),
        "amount of hex": _value("amount", "0x1F"),
        "amount of a point": _value("amount", ".5"),
        "flag of 1": _value("flag", "1"),
        "flag of yes": _value("flag", "yes"),
        "day of February 30": _value("day", '"2013-02-30"'),
        "day of a number": _value("day", "15000"),
        "at of milliseconds": _value("at", "1356998400000"),
        "name of an object": _value("name", '{"b": 1, "a": [1.50, null]}'),
        "name of a number": _value("name", "1.50"),
    }


def _huge() -> dict[str, Spoil]:
    return {
        "4 MB": _value("name", f'"{"é" * 2_000_000}"'),
        "30 MB": _value("name", f'"{"x" * 30_000_000}"'),
        "4 MB of escapes": _value("name", '"' + r"\u00e9" * 700_000 + '"'),
        "a number of 4 MB": _value("amount", "1" * 4_000_000),
        "a key of 1 MB": _value("month", f'2, "{"k" * 1_000_000}": 1'),
        "200,000 keys": _value("month", "2, " + ", ".join(f'"k{n}": 1' for n in range(200_000))),
    }


def _syntax() -> dict[str, Spoil]:
    return {
        "single quotes": _lines([5], lambda line: line.replace('"', "'")),
        "a comment": _lines([5], lambda line: f"{line} // comment"),
        "a comma at the end": _lines([5], lambda line: f"{line[:-1]},}}"),
        "a quote open": _lines([5], lambda line: line.replace('"id"', '"id')),
        "a surrogate alone": _value("name", r'"\ud800"'),
        "an escape unknown": _value("name", r'"\q"'),
        "a NUL escaped": _value("name", r'"a\u0000b"'),
        "a tab in a text": _value("name", '"a\tb"'),
        "a line break in a text": _value("name", '"a\nb"'),
    }
