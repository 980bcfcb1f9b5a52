"""A look at one text file as a whole: whether it is of its encoding, and what its format asks.

It runs at the speed of memory, many times faster than Spark parses. `quoting.py` looks at CSV,
`objects.py` at JSON.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import one_line
from pipeline.stores.reading import open_file

_CHUNK_BYTES = 8 << 20
LINE_BREAKS = b"\r\n"
_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32LE",
    codecs.BOM_UTF32_BE: "UTF-32BE",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class Fault:
    """Why a file cannot be read as it is."""

    problem: str
    remedy: str


class Look(Protocol):
    """A look at the bytes of a file, as UTF-8."""

    def fault(self, pieces: Callable[[], Iterator[bytes]]) -> Fault | None:
        """What is wrong with it.

        Args:
            pieces: Gives the file from its beginning, at every call; it is read to its end at least
                once, so that its encoding is checked.
        """


def fault_of(
    path: str, packed: str | None, encoding: str | None, look: Look | None = None
) -> Fault | None:
    """What is wrong with a file; None where nothing is.

    Args:
        path: As `stores.reading.open_file` takes it.
        packed: How it is compressed, as Arrow calls it.
        encoding: As the reader's options name it; UTF-8 by default.
        look: What else its format asks of it.
    """

    def pieces() -> Iterator[bytes]:
        return _utf8(_chunks(path, packed), encoding)

    try:
        if look is not None:
            return look.fault(pieces)
        for _ in pieces():
            pass
    except _NotTextError as error:
        return error.fault
    except (OSError, EOFError, pa.ArrowException) as error:
        return Fault(f"cannot be read: {one_line(error)}", "Deliver it again, or remove it.")
    return None


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


def at_line_ends(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Cuts pieces again, behind line breaks: no quote or escape is cut from what it belongs to."""
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


def among(content: npt.NDArray[np.uint8], wanted: bytes) -> npt.NDArray[np.bool_]:
    """Whether each byte is one of those that are wanted."""
    table = np.zeros(256, np.bool_)
    table[list(wanted)] = True
    return table[content]
