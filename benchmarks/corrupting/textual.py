"""Ways to spoil a file of text that CSV and JSON share: its bytes, its encoding, its gzip."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Literal

from benchmarks.corrupting.good import Format, encoded, parquet
from benchmarks.corrupting.scene import Scene, Spoil, Variant, flipped, variants

Text = Literal["csv", "json"]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def text_variants(kind: Text) -> list[Variant]:
    """The variants of one format of text."""
    return [
        *variants(kind, "bytes flipped", {f"{n:02}": _flips(1 + n % 3) for n in range(10)}),
        *variants(kind, "truncated", _cuts()),
        *variants(kind, "encoding", _encodings()),
        *variants(kind, "NUL bytes", _nuls()),
        *variants(kind, "line endings", _line_endings()),
        *variants(kind, "gzip", _gzips(kind)),
        *variants(kind, "another format", _others(kind)),
        *variants(
            kind,
            "no rows",
            {"empty": edited(lambda _: b""), "line breaks": edited(lambda _: b"\n\n\n")},
        ),
    ]


def edited(edit: Callable[[bytes], bytes]) -> Spoil:
    """The victim with its bytes changed by a function."""
    return lambda scene: scene.replace(edit(scene.victim.read_bytes()))


def swapped(old: bytes, new: bytes, count: int = -1) -> Spoil:
    """The victim with some bytes in the place of others."""
    return edited(lambda content: content.replace(old, new, count))


def late(old: bytes, new: bytes) -> Spoil:
    """As `swapped`, the last time that they occur."""
    return edited(lambda content: new.join(content.rsplit(old, 1)))


def _flips(count: int) -> Spoil:
    def spoil(scene: Scene) -> None:
        content = scene.victim.read_bytes()
        scene.replace(flipped(content, scene.rng, 0, len(content), count))

    return spoil


def _cuts() -> dict[str, Spoil]:
    def cut(tenths: int) -> Spoil:
        return edited(lambda content: content[: len(content) * tenths // 10])

    shares = {f"at {tenths}0 percent": cut(tenths) for tenths in (1, 3, 5, 7, 9)}
    return shares | {
        "without the last line break": edited(lambda content: content[:-1]),
        "1 byte": edited(lambda content: content[:1]),
        "within a letter": edited(lambda content: content[: content.rindex("ï".encode()) + 1]),
    }


def _encodings() -> dict[str, Spoil]:
    def recoded(encoding: str) -> Spoil:
        return edited(lambda content: content.decode().encode(encoding, errors="replace"))

    return {
        "Latin-1": recoded("latin-1"),
        "UTF-16": recoded("utf-16"),
        "UTF-16 without mark": recoded("utf-16-be"),
        "UTF-32": recoded("utf-32"),
        "Shift JIS": recoded("shift-jis"),
        "UTF-8 with mark": edited(lambda content: BYTE_ORDER_MARK + content),
        "mark in the midst": late(b"\n", b"\n" + BYTE_ORDER_MARK),
        "invalid byte late": late("ï".encode(), b"\xef"),
        "overlong": late("ï".encode(), b"\xc0\xaf"),
        "surrogate": late("ï".encode(), b"\xed\xa0\x80"),
        "replacement character": late("ï".encode(), "\ufffd".encode()),
    }


def _nuls() -> dict[str, Spoil]:
    return {
        "in a value": late("ï".encode(), b"\0"),
        "in a number": swapped(b"1000250", b"10002\x0050"),
        "at the start": edited(lambda content: b"\0" + content),
        "at the end": edited(lambda content: content + b"\0" * 512),
        "a block": edited(lambda it: it[: len(it) // 2] + bytes(300) + it[len(it) // 2 + 300 :]),
    }


def _line_endings() -> dict[str, Spoil]:
    def every(share: int, ending: bytes) -> Spoil:
        def edit(content: bytes) -> bytes:
            lines = content.split(b"\n")
            ends = [
                ending if place % share == share - 1 else b"\n" for place in range(len(lines) - 1)
            ]
            return b"".join(a + b for a, b in zip(lines, [*ends, b""], strict=True))

        return edited(edit)

    return {
        "CRLF": every(1, b"\r\n"),
        "CR": every(1, b"\r"),
        "CRLF and LF": every(2, b"\r\n"),
        "CR and LF": every(2, b"\r"),
        "LF and blank lines": every(3, b"\n\n"),
        "line separator": every(3, "\u2028".encode()),
    }


def _gzips(kind: Text) -> dict[str, Spoil]:
    suffix = f".{kind}.gz"

    def gzipped(edit: Callable[[bytes], bytes]) -> Spoil:
        def spoil(scene: Scene) -> None:
            scene.replace(edit(gzip.compress(scene.victim.read_bytes(), mtime=0)), suffix)

        return spoil

    def flips(region: slice) -> Spoil:
        def spoil(scene: Scene) -> None:
            content = gzip.compress(scene.victim.read_bytes(), mtime=0)
            start, stop, _ = region.indices(len(content))
            scene.replace(flipped(content, scene.rng, start, stop, 1), suffix)

        return spoil

    return {
        "whole": gzipped(lambda it: it),
        "two members": gzipped(lambda it: it + gzip.compress(b"\n", mtime=0)),
        "cut at half": gzipped(lambda it: it[: len(it) // 2]),
        "cut in the check sum": gzipped(lambda it: it[:-5]),
        "cut in the header": gzipped(lambda it: it[:5]),
        "header flipped": flips(slice(0, 3)),
        "middle flipped": flips(slice(30, -30)),
        "end flipped": flips(slice(-100, -8)),
        "check sum flipped": flips(slice(-8, -4)),
        "length flipped": flips(slice(-4, None)),
        "text behind": gzipped(lambda it: it + b"end\n"),
        "NUL behind": gzipped(lambda it: it + bytes(64)),
        "not gzip": gzipped(gzip.decompress),
        "gzip in gzip": gzipped(lambda it: gzip.compress(it, mtime=0)),
        "named as text": lambda scene: scene.replace(gzip.compress(scene.victim.read_bytes())),
    }


def _others(kind: Text) -> dict[str, Spoil]:
    other: Format = "json" if kind == "csv" else "csv"
    return {
        "Parquet": lambda scene: scene.replace(parquet(scene.rows)),
        other: lambda scene: scene.replace(encoded(other, scene.rows)),
        "HTML": lambda scene: scene.replace(b"<html>\n<body>503, try again</body>\n</html>\n"),
        "random bytes": lambda scene: scene.replace(scene.rng.randbytes(20_000)),
    }
