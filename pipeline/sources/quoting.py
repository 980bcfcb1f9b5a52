"""How a CSV file quotes: whether each quote stands where RFC 4180 has it, and is closed.

What a parser does with a quote that is never closed differs from parser to parser; none can tell
where the value should have ended. Lines that end in several ways are refused, too: Spark takes a
file's first line for all.

Source: RFC 4180, section 2.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.sources.wholeness import LINE_BREAKS, Fault, among, at_line_ends

# A file whose quotes need a second, slower look is held in memory for it.
_LARGEST_BYTES = 1 << 30
_MEND = (
    "Close the quote, or deliver the file again; where quotes mean nothing: options: {quote: ''}."
)


@dataclass(frozen=True)
class Quoting:
    """How a CSV file quotes."""

    quote: str = '"'
    escape: str = '"'
    separator: str = ","
    comment: str = ""
    """What lines begin with that are none."""
    multi_line: bool = True
    """Whether a quoted value may hold line breaks."""

    def fault(self, pieces: Callable[[], Iterator[bytes]]) -> Fault | None:
        """What is wrong with how a file quotes, or ends its lines."""
        scan = _Scan(self)
        scan.over(pieces())
        if not scan.sound:
            return _second_look(pieces(), self)
        return _mixed(scan.line_endings) if self.multi_line else None


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
        for piece in at_line_ends(pieces):
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


def _neutral(piece: bytes, quoting: Quoting) -> bytes:
    """The same bytes without comments, and with escaped characters made harmless."""
    if quoting.comment:
        mark = re.escape(quoting.comment.encode())
        piece = re.sub(rb"(?m)^" + mark + rb"[^\r\n]*", b"", piece)
    if quoting.escape in ("", "\0", quoting.quote):
        return piece
    escape, quote = re.escape(quoting.escape.encode()), re.escape(quoting.quote.encode())
    return re.sub(escape + rb"(?:" + escape + rb"|" + quote + rb")", b"xx", piece)


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
    before = among(content[opening - 1], LINE_BREAKS + separator[-1:] + quote)
    behind = content[np.minimum(closing + 1, len(content) - 1)]
    # After the byte order mark of UTF-8 a file begins, too.
    begins = (opening == 4) & (content[1:4].tobytes() == codecs.BOM_UTF8)
    ends = among(behind, LINE_BREAKS + separator[:1] + quote)
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


def _second_look(pieces: Iterator[bytes], quoting: Quoting) -> Fault | None:
    """Field by field: a quote inside of a value that is not quoted is harmless."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > _LARGEST_BYTES:
            return Fault("has a quote where none may stand, or one that is not closed", _MEND)
    content = _neutral(b"".join(held).removeprefix(codecs.BOM_UTF8), quoting)
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
