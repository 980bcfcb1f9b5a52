"""A look at one text file as a whole: whether it is of its encoding, and closes its quotes.

It runs at the speed of memory, many times faster than Spark parses. What a parser does with a quote
that is never closed differs from parser to parser; none can tell where the value should have ended.

Source: RFC 4180, section 2.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.stores.reading import open_file

_CHUNK_BYTES = 8 << 20
# A file whose quotes need a second, slower look is held in memory for it.
_LARGEST_BYTES = 1 << 30
_LINE_BREAKS = b"\r\n"
_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32LE",
    codecs.BOM_UTF32_BE: "UTF-32BE",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_MEND = (
    "Close the quote, or deliver the file again; where quotes mean nothing: options: {quote: ''}."
)


@dataclass(frozen=True)
class Fault:
    """Why a file cannot be read as it is."""

    problem: str
    remedy: str


@dataclass(frozen=True)
class Quoting:
    """How a CSV file quotes."""

    quote: str = '"'
    escape: str = '"'
    separator: str = ","
    multi_line: bool = True
    """Whether a quoted value may hold line breaks."""


def fault_of(
    path: str, packed: str | None, encoding: str | None, quoting: Quoting | None
) -> Fault | None:
    """What is wrong with a file; None where nothing is.

    Args:
        path: As `stores.reading.open_file` takes it.
        packed: How it is compressed, as Arrow calls it.
        encoding: As the reader's options name it; UTF-8 by default.
        quoting: For CSV.
    """
    try:
        pieces = _utf8(_chunks(path, packed), encoding)
        return None if _is_sound(pieces, quoting) else _second_look(path, packed, encoding, quoting)
    except _NotTextError as error:
        return error.fault
    except (OSError, EOFError, pa.ArrowException) as error:
        told = " ".join(str(error).split())
        return Fault(f"cannot be read: {told}", "Deliver it again, or remove it.")


def encoding_fault(content: bytes, encoding: str | None) -> Fault | None:
    """Why the beginning of a file is not of its encoding, as far as its first bytes tell."""
    if encoding is not None:
        return None
    for mark, name in _BOMS.items():
        if content.startswith(mark):
            return Fault(f"is {name}, by its first bytes", _name_it(name))
    if content[:1000].count(0) > len(content[:1000]) // 5:
        name = "UTF-16LE" if content[1:2] == b"\0" else "UTF-16BE"
        return Fault(f"seems to be {name}: every other byte is 0", _name_it(name))
    return None


class _NotTextError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.problem)
        self.fault = fault


def _name_it(encoding: str) -> str:
    return f"Name its encoding: options: {{encoding: {encoding}}}."


def _chunks(path: str, packed: str | None) -> Iterator[bytes]:
    with open_file(path) as stored:
        stream = stored if packed is None else pa.CompressedInputStream(stored, packed)
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _utf8(chunks: Iterator[bytes], encoding: str | None) -> Iterator[bytes]:
    """The chunks as UTF-8, checked."""
    try:
        known = codecs.lookup(encoding or "utf-8").name
    except LookupError:  # Java may know it
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(known)()
    offset = 0
    for chunk in chunks:
        if offset == 0 and (fault := encoding_fault(chunk, encoding)) is not None:
            raise _NotTextError(fault)
        yield _checked(decoder, chunk, known, offset)
        offset += len(chunk)
    _checked(decoder, b"", known, offset)


def _checked(decoder: codecs.IncrementalDecoder, chunk: bytes, known: str, offset: int) -> bytes:
    try:
        text = decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        bad = error.object[error.start : error.start + 1].hex().upper()
        place = offset - (len(error.object) - len(chunk)) + error.start
        raise _NotTextError(
            Fault(
                f"is not {known.upper()}: byte 0x{bad} at offset {place:,}",
                "Name its encoding, often ISO-8859-1 or windows-1252: "
                "options: {encoding: windows-1252}.",
            )
        ) from error
    return chunk if known == "utf-8" else text.encode()


def _is_sound(pieces: Iterator[bytes], quoting: Quoting | None) -> bool:
    """Whether all quotes stand where RFC 4180 has them; every piece is read in any case."""
    if quoting is None:
        for _ in pieces:
            pass
        return True
    is_open, sound, last = False, True, b"\n"
    pieces = _with_end(pieces)
    for piece in pieces:
        if not sound:
            continue
        sound, is_open = _follows_rules(last + _neutral(piece, quoting), is_open, quoting)
        last = piece[-1:] or last
    return sound and not is_open


def _with_end(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Ends pieces where no quote or escape is cut from what it belongs to, and all with a line."""
    held = b""
    for piece in pieces:
        joined = held + piece
        cut = max(joined.rfind(b"\n"), joined.rfind(b"\r")) + 1
        held = joined[cut:]
        if cut:
            yield joined[:cut]
    yield held + b"\n"


def _neutral(piece: bytes, quoting: Quoting) -> bytes:
    """The same bytes with escaped characters made harmless."""
    if quoting.escape == quoting.quote:
        return piece
    escape = re.escape(quoting.escape.encode())
    return re.sub(escape + rb"[^\r\n]", b"xx", piece)


def _follows_rules(piece: bytes, is_open: bool, quoting: Quoting) -> tuple[bool, bool]:
    """Whether quotes of a piece stand where they may, and whether one is open at its end.

    The piece begins with the byte before it, and ends with a line break. Quotes open and close by
    turns: a doubled one closes and opens again.
    """
    content = np.frombuffer(piece, np.uint8)
    quotes = np.flatnonzero(content[1:] == ord(quoting.quote)) + 1
    opening = quotes[int(is_open) :: 2]
    closing = quotes[int(not is_open) :: 2]
    separator, quote = quoting.separator.encode(), quoting.quote.encode()
    before = _among(content[opening - 1], _LINE_BREAKS + separator[-1:] + quote)
    behind = content[np.minimum(closing + 1, len(content) - 1)]
    # After the byte order mark of UTF-8 a file begins, too.
    begins = (opening == 4) & (piece[1:4] == codecs.BOM_UTF8)
    sound = bool((before | begins).all())
    sound = sound and bool(_among(behind, _LINE_BREAKS + separator[:1] + quote).all())
    if sound and not quoting.multi_line:
        sound = not _breaks_inside(content, quotes, is_open=is_open)
    return sound, is_open ^ bool(len(quotes) % 2)


def _among(content: npt.NDArray[np.uint8], wanted: bytes) -> npt.NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[list(wanted)] = True
    return table[content]


def _breaks_inside(
    content: npt.NDArray[np.uint8], quotes: npt.NDArray[np.int64], *, is_open: bool
) -> bool:
    breaks = np.flatnonzero((content == ord("\n")) | (content == ord("\r")))
    quotes_before = np.searchsorted(quotes, breaks) + int(is_open)
    return bool((quotes_before % 2 == 1).any())


def _second_look(
    path: str, packed: str | None, encoding: str | None, quoting: Quoting | None
) -> Fault | None:
    """Field by field: a quote inside of a value that is not quoted is harmless."""
    if quoting is None:
        return None
    pieces = []
    for piece in _utf8(_chunks(path, packed), encoding):
        pieces.append(piece)
        if sum(map(len, pieces)) > _LARGEST_BYTES:
            return Fault("has a quote where none may stand, or one that is not closed", _MEND)
    content = _neutral(b"".join(pieces).removeprefix(codecs.BOM_UTF8), quoting)
    return _first_bad_field(content, quoting)


def _first_bad_field(content: bytes, quoting: Quoting) -> Fault | None:
    quote, separator = re.escape(quoting.quote.encode()), re.escape(quoting.separator.encode())
    ends = rb"(?=" + separator + rb"|[\r\n]|\Z)"
    rest = rb"(?:(?!" + separator + rb")[^\r\n])*+"
    whole = quote + rb"(?:[^" + quote + rb"]|" + quote * 2 + rb")*+" + quote + ends
    pair = rb"(?:[^\r\n" + quote + rb"]|" + quote * 2 + rb")*+"
    # Closed on its own line, with something behind it: the value is kept as it is written.
    odd = rb"[ \t]*" + quote + pair + quote + rb"(?!" + quote + rb")" + rest
    bare = rb"(?![ \t]*" + quote + rb")" + rest
    inside = [odd, bare] if not quoting.multi_line else [whole, odd, bare]
    field = rb"(?:" + rb"|".join(inside) + rb")"
    fields = re.compile(rb"(?:" + field + rb"(?:" + separator + rb"|\r\n|\r|\n))*+")
    # All fields at once: a loop over them would take ten times as long.
    place = fields.match(content).end()  # type: ignore[union-attr]
    last = re.compile(field).match(content, place)
    if last is not None and last.end() == len(content):
        return None
    line = content.count(b"\n", 0, place) + 1
    if not quoting.multi_line and re.compile(whole).match(content, place):
        return Fault(
            f"has a line break inside of quotes in line {line:,}, and options.multiLine is false",
            "Leave options.multiLine out.",
        )
    return Fault(f"leaves a quote open in line {line:,}", _MEND)
