"""Ways to spoil a Parquet file: bytes flipped, cut, counted wrong, retyped.

Source: the layout of the file and its footer,
https://github.com/apache/parquet-format#file-format
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corrupting.good import COLUMNS, ROWS_PER_FILE, ROWS_PER_GROUP, SCHEMA, parquet
from benchmarks.corrupting.scene import Scene, Spoil, Variant, flipped, variants

MAGIC = b"PAR1"
_I64 = b"\x16"
"""In thrift's compact protocol: the next field but one is an i64 (field 3 behind 2, 5 behind 4)."""


def parquet_variants() -> list[Variant]:
    """All variants that only Parquet has."""
    return [
        *variants("parquet", "header flipped", {str(n): _flips("header", n) for n in (1, 2, 4)}),
        *variants("parquet", "pages flipped", _seeded(24, lambda n: _flips("pages", 1 + n % 3))),
        *variants(
            "parquet",
            "checked pages flipped",
            _seeded(24, lambda n: _flips("pages", 1 + n % 3, write_page_checksum=True)),
            trusts_engine=False,  # that a page was changed can be known
        ),
        *variants("parquet", "footer flipped", _seeded(24, lambda n: _flips("footer", 1 + n % 3))),
        *variants("parquet", "truncated", _cuts()),
        *variants("parquet", "wrong magic", _magics()),
        *variants("parquet", "wrong row count", _counts()),
        *variants("parquet", "other types", _retyped()),
        *variants("parquet", "columns", _columns()),
        *variants("parquet", "huge cell", {"4 MB": _huge, "4 MB dictionary": _huge_dictionary}),
        *variants("parquet", "no rows", {"empty": _content(b""), "header only": _no_rows}),
    ]


def _seeded(count: int, make: Callable[[int], Spoil]) -> dict[str, Spoil]:
    return {f"{number:02}": make(number) for number in range(count)}


def _content(content: bytes) -> Spoil:
    return lambda scene: scene.replace(content)


def _flips(region: str, count: int, **options: Any) -> Spoil:
    def spoil(scene: Scene) -> None:
        form = {
            "compression": scene.rng.choice(["none", "snappy", "zstd", "gzip", "lz4"]),
            "data_page_version": scene.rng.choice(["1.0", "2.0"]),
            "use_dictionary": scene.rng.choice([True, False]),
        }
        content = parquet(scene.rows, **form, **options)
        footer = _footer_start(content)
        start, stop = {
            "header": (0, 4),
            "pages": (4, footer),
            "footer": (footer, len(content) - 8),
        }[region]
        scene.replace(flipped(content, scene.rng, start, stop, count))

    return spoil


def _footer_start(content: bytes) -> int:
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


def _cuts() -> dict[str, Spoil]:
    def share(tenths: int) -> Spoil:
        return _edited(lambda content: content[: len(content) * tenths // 10])

    def short(lost: int) -> Spoil:
        return _edited(lambda content: content[:-lost])

    def first(kept: int) -> Spoil:
        return _edited(lambda content: content[:kept])

    return {
        **{f"at {tenths}0 percent": share(tenths) for tenths in range(1, 10)},
        **{f"{lost} bytes short": short(lost) for lost in (1, 4, 8, 9, 100)},
        **{f"{kept} bytes": first(kept) for kept in (1, 4, 8, 12)},
    }


def _edited(edit: Callable[[bytes], bytes]) -> Spoil:
    return lambda scene: scene.replace(edit(scene.victim.read_bytes()))


def _magics() -> dict[str, Spoil]:
    def tail(length: int | None, magic: bytes) -> Spoil:
        def spoil(scene: Scene) -> None:
            content = scene.victim.read_bytes()
            told = content[-8:-4] if length is None else length.to_bytes(4, "little")
            scene.replace(content[:-8] + told + magic)

        return spoil

    return {
        "PAR2": tail(None, b"PAR2"),
        "PARE": tail(None, b"PARE"),
        "NUL": tail(None, b"\0\0\0\0"),
        "footer of 0 bytes": tail(0, MAGIC),
        "footer of 4 GB": tail(2**32 - 1, MAGIC),
        "footer longer than the file": tail(10**6, MAGIC),
        "footer shorter than it is": tail(100, MAGIC),
        "twice": _edited(lambda content: content * 2),
        "text behind": _edited(lambda content: content + b"\nend\n"),
    }


def _counts() -> dict[str, Spoil]:
    """Counts of the footer, changed to others of as many bytes: of all rows, of a row group's."""
    file, group, groups = ROWS_PER_FILE, ROWS_PER_GROUP, ROWS_PER_FILE // ROWS_PER_GROUP
    own = [len(COLUMNS)]  # a row group's own count stands behind those of its columns
    own_of_all = [(len(COLUMNS) + 1) * place + len(COLUMNS) for place in range(groups)]
    return {
        "of the file, less": _counted((file, file - 1, None)),
        "of the file, more": _counted((file, file + 1, None)),
        "of the file, half": _counted((file, file - 56, None)),
        "of all row groups, less": _counted((group, group - 1, None)),
        "of all row groups, more": _counted((group, group + 1, None)),
        "of a column, less": _counted((group, group - 1, [0])),
        "of a column, more": _counted((group, group + 1, [0])),
        "of a row group, less": _counted((group, group - 1, own)),
        "of a row group, more": _counted((group, group + 1, own)),
        "of everything, less": _counted((file, file - groups, None), (group, group - 1, None)),
        "of everything, more": _counted((file, file + groups, None), (group, group + 1, None)),
        "of all but the columns, less": _counted(
            (file, file - groups, None), (group, group - 1, own_of_all)
        ),
    }


def _counted(*changes: tuple[int, int, Sequence[int] | None]) -> Spoil:
    """Counts changed in the footer.

    Args:
        changes: A count, another one, and which of its places are changed; all by default.
    """

    def spoil(scene: Scene) -> None:
        content = parquet(scene.rows, compression="none")
        start = _footer_start(content)
        footer = content[start:]
        for count, told, which in changes:
            old, new = _I64 + _varint(count), _I64 + _varint(told)
            first, *others = footer.split(old)
            picked = range(len(others)) if which is None else which
            footer = first + b"".join(
                (new if place in picked else old) + part for place, part in enumerate(others)
            )
        scene.replace(content[:start] + footer)

    return spoil


def _varint(number: int) -> bytes:
    """A positive number as thrift's compact protocol writes an i64: zigzag, seven bits a byte."""
    number *= 2
    told = bytearray()
    while number > 127:
        told.append(number & 127 | 128)
        number >>= 7
    return bytes([*told, number])


def _retyped() -> dict[str, Spoil]:
    def of(column: str, kind: pa.DataType, make: Callable[[Any], Any]) -> Spoil:
        def spoil(scene: Scene) -> None:
            place = SCHEMA.names.index(column)
            schema = SCHEMA.set(place, pa.field(column, kind))
            rows = [
                {**row, column: None if row[column] is None else make(row[column])}
                for row in scene.rows
            ]
            scene.replace(parquet(rows, schema))

        return spoil

    def naive(at: Any) -> Any:
        return at.replace(tzinfo=None)

    return {
        "id as text": of("id", pa.string(), str),
        "id as text, some of it none": of("id", pa.string(), lambda n: str(n) if n % 3 else "x"),
        "id as double": of("id", pa.float64(), float),
        "id as uint64": of("id", pa.uint64(), lambda n: n if n % 3 else 2**63 + n),
        "month as double with fractions": of("month", pa.float64(), lambda n: n + 0.5 * (n == 2)),
        "month as bigint out of range": of("month", pa.int64(), lambda n: n if n != 2 else 2**31),
        "month as boolean": of("month", pa.bool_(), bool),
        "amount as text": of("amount", pa.string(), str),
        "amount as timestamp": of("amount", pa.timestamp("us"), int),
        "flag as int": of("flag", pa.int32(), int),
        "day as timestamp": of(
            "day", pa.timestamp("us"), lambda day: datetime.combine(day, time(5))
        ),
        "day as text": of("day", pa.string(), str),
        "at as nanoseconds": of("at", pa.timestamp("ns"), naive),
        "at as milliseconds": of(
            "at", pa.timestamp("ms"), lambda at: naive(at).replace(microsecond=0)
        ),
        "at as int": of("at", pa.int64(), lambda at: int(at.timestamp())),
        "name as binary": of("name", pa.binary(), str.encode),
        "name as bytes that are no text": of("name", pa.binary(), lambda _: b"\xff\xfe"),
        "name as struct": of("name", pa.struct({"a": pa.string()}), lambda name: {"a": name}),
        "name as list": of("name", pa.list_(pa.string()), lambda name: [name]),
        "swapped": _swapped,
    }


def _swapped(scene: Scene) -> None:
    """Two columns under each other's name."""
    other = {"id": "name", "name": "id"}
    table = pq.read_table(scene.victim)
    sink = pa.BufferOutputStream()
    pq.write_table(table.rename_columns([other.get(name, name) for name in COLUMNS]), sink)
    scene.replace(sink.getvalue().to_pybytes())


def _columns() -> dict[str, Spoil]:
    def renamed(*names: str) -> Spoil:
        def spoil(scene: Scene) -> None:
            table = pq.read_table(scene.victim)
            extra = len(names) - len(COLUMNS)
            for place in range(extra):
                table = table.append_column(f"_{place}", table["amount"])
            sink = pa.BufferOutputStream()
            pq.write_table(table.rename_columns(list(names)), sink)
            scene.replace(sink.getvalue().to_pybytes())

        return spoil

    def without(column: str) -> Spoil:
        return lambda scene: scene.replace(
            parquet(scene.rows, SCHEMA.remove(COLUMNS.index(column)))
        )

    return {
        "missing": without("amount"),
        "required one missing": without("id"),
        "twice": renamed(*COLUMNS, "amount"),
        "twice but for case": renamed(*COLUMNS, "AMOUNT"),
        "in capitals": renamed(*(name.upper() for name in COLUMNS)),
        "name with a line break": renamed(*COLUMNS, "a\nb"),
        "name with a dot": renamed(*COLUMNS, "name.x"),
        "in another order": lambda scene: scene.replace(
            parquet(scene.rows, pa.schema(list(SCHEMA)[::-1]))
        ),
    }


def _huge(scene: Scene) -> None:
    scene.replace(parquet([scene.rows[0] | {"name": "é" * 2_000_000}, *scene.rows[1:]]))


def _huge_dictionary(scene: Scene) -> None:
    rows = [row | {"name": "é" * 2_000_000} if row["id"] % 20 == 0 else row for row in scene.rows]
    scene.replace(parquet(rows, use_dictionary=True, compression="zstd"))


def _no_rows(scene: Scene) -> None:
    scene.replace(parquet([]))
