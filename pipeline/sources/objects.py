"""Whether each line of a JSON file holds one object and nothing behind it.

Spark does not look behind the first object of a line, and makes a question mark of half a pair of
surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.sources.wholeness import LINE_BREAKS, Fault, among, at_line_ends

_HALF_A_PAIR = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
)


_ONE = "With options.multiLine a file holds one value; without, each line holds an object."


@dataclass(frozen=True)
class Objects:
    """A line an object; or else a file one value."""

    by_line: bool = True

    def fault(self, pieces: Callable[[], Iterator[bytes]]) -> Fault | None:
        """The first line that holds more than its object; every piece is read in any case."""
        if not self.by_line:
            held = b"".join(pieces())
            place, problem = _bad_place(held, by_line=False)
            line = held.count(b"\n", 0, place) + 1
            return Fault(f"{problem} in line {line:,}", _ONE) if problem else None
        fault, before = None, 0
        for piece in at_line_ends(pieces()):
            if fault is None:
                place, problem = _bad_place(piece)
                if problem is not None:
                    line = before + piece.count(b"\n", 0, place) + 1
                    fault = Fault(
                        f"{problem} in line {line:,}", "Write each object on a line of its own."
                    )
            before += piece.count(b"\n")
        return fault


def _bad_place(piece: bytes, *, by_line: bool = True) -> tuple[int, str | None]:
    half = _HALF_A_PAIR.search(piece) if b"\\u" in piece else None
    if half is not None:
        return half.start(), "has half a character (a surrogate without its other)"
    content = np.frombuffer(re.sub(rb"\\.", b"xx", piece, flags=re.DOTALL), np.uint8)
    breaks = np.flatnonzero(among(content, LINE_BREAKS if by_line else b""))
    starts = np.concatenate(([0], breaks + 1))
    quotes = np.flatnonzero(content == ord('"'))
    marks = np.flatnonzero(among(content, b"{}[]"))
    line_of = np.searchsorted(starts, marks, side="right") - 1
    # Quotes count from the beginning of a line: one that is broken leaves the next as it is.
    inside = np.searchsorted(quotes, marks) - np.searchsorted(quotes, starts)[line_of]
    marks, line_of = marks[inside % 2 == 0], line_of[inside % 2 == 0]
    steps = np.where(among(content[marks], b"{["), 1, -1)
    depth = np.cumsum(steps)
    first = np.searchsorted(line_of, np.arange(len(starts)))
    at_start = np.concatenate(([0], depth))[first]
    closed = np.flatnonzero((depth - at_start[line_of] == 0) & (steps < 0))
    # The first mark of each line that closes what the line opened.
    _, places = np.unique(line_of[closed], return_index=True)
    ends = marks[closed[places]]
    text = np.flatnonzero(~among(content, b" \t\r\n"))
    following = np.searchsorted(text, ends + 1)
    there = following < len(text)
    behind = text[following[there]]
    bad = behind < np.append(breaks, len(content))[line_of[closed[places]][there]]
    return (int(behind[bad][0]), "has something behind its object") if bad.any() else (0, None)
