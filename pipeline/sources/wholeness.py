"""A look at one text file as a whole: whether it is of its encoding, and closes its quotes.

It runs at the speed of memory, many times faster than Spark parses. What a parser does with a quote
that is never closed differs from parser to parser; none can tell where the value should have ended.

Lines that end in several ways are refused, too: Spark takes a file's first line for all.

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
_HALF_A_PAIR = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
)
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


@dataclass(frozen=True)
class Objects:
    """How a JSON file is cut: a line an object."""


def fault_of(
    path: str, packed: str | None, encoding: str | None, quoting: Quoting | Objects | None
) -> Fault | None:
    """What is wrong with a file; None where nothing is.

    Args:
        path: As `stores.reading.open_file` takes it.
        packed: How it is compressed, as Arrow calls it.
        encoding: As the reader's options name it; UTF-8 by default.
        quoting: For CSV; for JSON, that each line holds an object.
    """
    try:
        pieces = _utf8(_chunks(path, packed), encoding)
        if not isinstance(quoting, Quoting):
            return _first_bad_line(pieces, check=quoting is not None)
        scan = _Scan(quoting)
        scan.over(pieces)
        if not scan.sound:
            return _second_look(path, packed, encoding, quoting)
        return _mixed(scan.line_endings) if quoting.multi_line else None
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


class _Scan:
    """A walk over the pieces of a file, from quote to quote."""

    def __init__(self, quoting: Quoting) -> None:
        self.quoting = quoting
        self.is_open = False
        self.sound = True
        self.line_endings: set[str] = set()

    def over(self, pieces: Iterator[bytes]) -> None:
        """Reads every piece, so that each is checked for its encoding."""
        last = b"\n"
        for piece in _at_line_ends(pieces):
            # The last line may end without a break: where one is put, it is not the file's own.
            whole = piece if piece.endswith((b"\r", b"\n")) else piece + b"\n"
            if self.sound:
                self._take(last + _neutral(whole, self.quoting), own=len(piece) + 1)
            last = whole[-1:]
        self.sound = self.sound and not self.is_open

    def _take(self, piece: bytes, own: int) -> None:
        """Looks at a piece that begins with the byte before it, and ends with a line break.

        Quotes open and close by turns: a doubled one closes and opens again.

        Args:
            piece: The bytes.
            own: How many of them are the file's.
        """
        content = np.frombuffer(piece, np.uint8)
        quotes = np.flatnonzero(content[1:] == ord(self.quoting.quote)) + 1
        self.sound = _stand_where_they_may(content, quotes, self.quoting, is_open=self.is_open)
        # Where no carriage return was seen, all lines end alike.
        if b"\r" in piece or self.line_endings:
            self.line_endings |= _line_endings(content[:own], quotes, is_open=self.is_open)
        if self.sound and not self.quoting.multi_line:
            self.sound = not _breaks_inside(content, quotes, is_open=self.is_open)
        self.is_open ^= bool(len(quotes) % 2)


def _at_line_ends(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Cuts pieces behind line breaks, where no quote or escape is cut from what it belongs to."""
    held = b""
    for piece in pieces:
        joined = held + piece
        # A carriage return at the end may be half a line break.
        cut = max(joined.rfind(b"\n"), joined.rfind(b"\r", 0, -1)) + 1
        held = joined[cut:]
        if cut:
            yield joined[:cut]
    if held:
        yield held


def _neutral(piece: bytes, quoting: Quoting) -> bytes:
    """The same bytes with escaped characters made harmless."""
    if quoting.escape == quoting.quote:
        return piece
    escape = re.escape(quoting.escape.encode())
    return re.sub(escape + rb"[^\r\n]", b"xx", piece)


def _stand_where_they_may(
    content: npt.NDArray[np.uint8],
    quotes: npt.NDArray[np.int64],
    quoting: Quoting,
    *,
    is_open: bool,
) -> bool:
    """Whether each quote opens where a value begins, or closes where one ends."""
    opening, closing = quotes[int(is_open) :: 2], quotes[int(not is_open) :: 2]
    separator, quote = quoting.separator.encode(), quoting.quote.encode()
    before = _among(content[opening - 1], _LINE_BREAKS + separator[-1:] + quote)
    behind = content[np.minimum(closing + 1, len(content) - 1)]
    # After the byte order mark of UTF-8 a file begins, too.
    begins = (opening == 4) & (content[1:4].tobytes() == codecs.BOM_UTF8)
    ends = _among(behind, _LINE_BREAKS + separator[:1] + quote)
    return bool((before | begins).all()) and bool(ends.all())


def _line_endings(
    content: npt.NDArray[np.uint8], quotes: npt.NDArray[np.int64], *, is_open: bool
) -> set[str]:
    """The ways in which records end."""
    feeds = np.flatnonzero(content[1:] == ord("\n")) + 1
    returns = np.flatnonzero(content[1:] == ord("\r")) + 1

    feeds = feeds[(np.searchsorted(quotes, feeds) + int(is_open)) % 2 == 0]
    returns = returns[(np.searchsorted(quotes, returns) + int(is_open)) % 2 == 0]
    pairs = content[feeds - 1] == ord("\r")
    alone = content[np.minimum(returns + 1, len(content) - 1)] != ord("\n")
    # One at the very end of a piece is whole: pieces are cut behind line breaks.
    alone |= returns == len(content) - 1
    found = {"CR LF": pairs.any(), "LF": (~pairs).any(), "CR": alone.any()}
    return {name for name, is_there in found.items() if is_there}


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


def _mixed(line_endings: set[str]) -> Fault | None:
    if len(line_endings) < 2:
        return None
    return Fault(
        f"ends its lines in several ways: {', '.join(sorted(line_endings))}",
        "Deliver it with one (dos2unix); or, where no value holds a line break, set options: "
        "{multiLine: 'false'}.",
    )


def _second_look(
    path: str, packed: str | None, encoding: str | None, quoting: Quoting
) -> Fault | None:
    """Field by field: a quote inside of a value that is not quoted is harmless."""
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
    on_one_line = quote + rb"(?:[^\r\n" + quote + rb"]|" + quote * 2 + rb")*+" + quote + ends
    bare = rb"(?!" + quote + rb")" + rest
    field = rb"(?:" + (whole if quoting.multi_line else on_one_line) + rb"|" + bare + rb")"
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
    return Fault(f"leaves a quote open, or has text behind a closing one, in line {line:,}", _MEND)


def _first_bad_line(pieces: Iterator[bytes], *, check: bool) -> Fault | None:
    """The first line of JSON that holds more than its object; every piece is read in any case.

    Spark does not look behind the first object of a line, and makes a question mark of half a pair
    of surrogates.
    """
    fault, before = None, 0
    for piece in _at_line_ends(pieces):
        if check and fault is None:
            place, problem = _bad_place(piece)
            if problem is not None:
                line = before + piece.count(b"\n", 0, place) + 1
                fault = Fault(
                    f"{problem} in line {line:,}", "Write each object on a line of its own."
                )
        before += piece.count(b"\n")
    return fault


def _bad_place(piece: bytes) -> tuple[int, str | None]:
    half = _HALF_A_PAIR.search(piece) if b"\\u" in piece else None
    if half is not None:
        return half.start(), "has half a character (a surrogate without its other)"
    content = np.frombuffer(re.sub(rb"\\.", b"xx", piece, flags=re.DOTALL), np.uint8)
    breaks = np.flatnonzero(_among(content, _LINE_BREAKS))
    starts = np.concatenate(([0], breaks + 1))
    quotes = np.flatnonzero(content == ord('"'))
    marks = np.flatnonzero(_among(content, b"{}[]"))
    line_of = np.searchsorted(starts, marks, side="right") - 1
    # Quotes count from the beginning of a line: one that is broken leaves the next as it is.
    inside = np.searchsorted(quotes, marks) - np.searchsorted(quotes, starts)[line_of]
    marks, line_of = marks[inside % 2 == 0], line_of[inside % 2 == 0]
    steps = np.where(_among(content[marks], b"{["), 1, -1)
    depth = np.cumsum(steps)
    first = np.searchsorted(line_of, np.arange(len(starts)))
    at_start = np.concatenate(([0], depth))[first]
    closed = np.flatnonzero((depth - at_start[line_of] == 0) & (steps < 0))
    # The first mark of each line that closes what the line opened.
    _, places = np.unique(line_of[closed], return_index=True)
    ends = marks[closed[places]]
    text = np.flatnonzero(~_among(content, b" \t\r\n"))
    following = np.searchsorted(text, ends + 1)
    there = following < len(text)
    behind = text[following[there]]
    bad = behind < np.append(breaks, len(content))[line_of[closed[places]][there]]
    return (int(behind[bad][0]), "has something behind its object") if bad.any() else (0, None)
