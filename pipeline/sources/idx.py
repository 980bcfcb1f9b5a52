"""Images and labels in idx files, as MNIST has them, laid out as raw Parquet: one file a part.

Source: the format's description, in "The MNIST Database" by LeCun, Cortes and Burges.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SourceError
from pipeline.lake import fingerprint
from pipeline.sources.format import LaidOut

NAME = re.compile(r"(?P<part>.+)[-.](?P<kind>images|labels)[-.]idx\d-ubyte(\.gz)?")
# It becomes the name of a file that Spark reads: no wildcard, nothing hidden.
PART = re.compile(r"[^\W_][\w .-]*")
UNSIGNED_BYTES = 8
GZIP = b"\x1f\x8b"
CHUNK_BYTES = 8 << 20  # of pixels in memory, and in a row group
PIECE_BYTES = 1 << 20  # a damaged header may ask for far more than the file has
SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("position", pa.int64()),
        ("label", pa.int32()),
        ("pixels", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)
AGAIN = "Deliver it again, or remove the images and the labels of this part."


@dataclass(frozen=True)
class Part:
    """The two files of one part, such as `train`."""

    name: str
    images: Path
    labels: Path

    def identity(self) -> list[list[str | int]]:
        """Name, bytes and time of change of both files."""
        found = [(path.name, path.stat()) for path in (self.images, self.labels)]
        return [[name, state.st_size, state.st_mtime_ns] for name, state in found]


def lay_out(folder: Path, target: Path) -> Path:
    """Writes the parts below `target` as Parquet, all or none; once, until an idx file changes.

    A row is an image: `part` (such as `train`), `position` (from 0), `label`, `pixels` (a byte a
    value, rows from the top), `height` and `width`.

    Args:
        folder: Holds `PART-images-idx3-ubyte` and `PART-labels-idx1-ubyte`, gzipped or not.
        target: Folder for all that is laid out of this source.

    Returns:
        The folder of the Parquet files: another one for other idx files.

    Raises:
        SourceError: There is no part, a file has no partner, or one is not a whole idx file.
    """
    parts = _find_parts(folder)
    identities = {part.name: part.identity() for part in parts}
    laid_out = target / fingerprint(parts=identities)
    if laid_out.exists():
        return laid_out
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".layout-") as temporary:
        staged = Path(temporary) / laid_out.name
        staged.mkdir()
        for part in parts:
            identity = identities[part.name]
            # Equal names, bytes and times: clean takes a file laid out again for the same one.
            path = staged / f"{part.name}-{fingerprint(identity=identity)[:8]}.parquet"
            _write_part(part, path)
            arrived = max(int(modified) for *_, modified in identity)
            os.utime(path, ns=(arrived, arrived))
            if part.identity() != identity:
                raise SourceError(
                    f"file {part.images}", "or its labels changed while read", "Run clean again."
                )
        _place(staged, laid_out)
    return laid_out


def _place(staged: Path, target: Path) -> None:
    try:
        staged.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # Another process laid it out in the meantime.


def _find_parts(folder: Path) -> list[Part]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = NAME.fullmatch(path.name)
        if match is None or not path.is_file() or path.name.startswith((".", "_")):
            continue
        name, kind = match["part"], match["kind"]
        if not PART.fullmatch(name):
            raise SourceError(
                f"file {path}",
                f"{name!r} is no name for a part",
                "Use letters, digits, blanks, dots and hyphens.",
            )
        first = found.setdefault(name, {}).setdefault(kind, path)
        if first != path:
            raise SourceError(
                f"file {path}", f"is beside {first.name}, of the same part", "Remove one of them."
            )
    if not found:
        raise SourceError(
            "source.path",
            f"there is no idx file in {folder}",
            "Name a folder of files such as train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz",
        )
    for kinds in found.values():
        _require_both(kinds)
    return [Part(name, kinds["images"], kinds["labels"]) for name, kinds in found.items()]


def _require_both(kinds: dict[str, Path]) -> None:
    for kind, other in (("images", "labels"), ("labels", "images")):
        if other not in kinds:
            path = kinds[kind]
            partner = path.name.replace(kind, other).replace(*_digits(kind))
            raise SourceError(
                f"file {path}", f"has no {other} beside it", f"Deliver {partner}, or remove it."
            )


def _digits(kind: str) -> tuple[str, str]:
    return ("idx3", "idx1") if kind == "images" else ("idx1", "idx3")


def _write_part(part: Part, path: Path) -> None:
    with ExitStack() as open_files:
        images = open_files.enter_context(_Idx(part.images, dimensions=3))
        labels = open_files.enter_context(_Idx(part.labels, dimensions=1))
        rows, height, width = images.shape
        if labels.shape != (rows,):
            raise SourceError(
                f"file {part.labels}",
                f"has {labels.shape[0]} labels, and {part.images.name} {rows} images",
                "Deliver both again, or remove them.",
            )
        repeated = ["part", "label", "height", "width"]
        writer = pq.ParquetWriter(
            path, SCHEMA, use_dictionary=repeated, write_statistics=[*repeated, "position"]
        )
        open_files.enter_context(writer)
        for first, pixels in images.chunks():
            count = len(pixels)
            columns = [
                pa.repeat(part.name, count),
                range(first, first + count),
                list(labels.read(count)),
                pixels,
                pa.repeat(height, count),
                pa.repeat(width, count),
            ]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
        images.require_end()
        labels.require_end()


class _Idx(AbstractContextManager["_Idx"]):
    """An idx file of unsigned bytes, read from its beginning to its end.

    Args:
        path: The file, gzipped or not: its first bytes tell.
        dimensions: How many it should have.
    """

    def __init__(self, path: Path, dimensions: int) -> None:
        self.path = path
        self._stream = self._opened()
        try:
            self.shape = self._header(dimensions)
        except BaseException:
            self._stream.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def chunks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Position of the first row, and the bytes of each row: as many as fit in a chunk."""
        size = math.prod(self.shape[1:])
        rows_per_chunk = max(1, CHUNK_BYTES // size)
        for first in range(0, self.shape[0], rows_per_chunk):
            rows = min(rows_per_chunk, self.shape[0] - first)
            block = self.read(rows * size)
            yield first, [block[row * size : (row + 1) * size] for row in range(rows)]

    def read(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            SourceError: The file ends before, or cannot be read.
        """
        pieces, left = [], count
        while left:
            piece = self._some(min(left, PIECE_BYTES))
            if not piece:
                raise SourceError(
                    f"file {self.path}", f"ends {left} bytes too early: it is cut off", AGAIN
                )
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def require_end(self) -> None:
        """Checks that nothing follows; only then has gzip compared its checksum.

        Raises:
            SourceError: Something does, or the checksum is another.
        """
        if self._some(1):
            raise SourceError(f"file {self.path}", f"goes on after {self._told()}", AGAIN)

    def _opened(self) -> gzip.GzipFile | BufferedReader:
        try:
            with self.path.open("rb") as stream:
                is_gzip = stream.read(len(GZIP)) == GZIP
            return gzip.open(self.path) if is_gzip else self.path.open("rb")
        except OSError as error:
            raise self._unreadable(error) from error

    def _header(self, dimensions: int) -> tuple[int, ...]:
        zero, kind, found = struct.unpack(">HBB", self.read(4))
        if zero != 0 or kind != UNSIGNED_BYTES:
            start = struct.pack(">HBB", zero, kind, found).hex(" ")
            raise SourceError(
                f"file {self.path}",
                f"is no idx file of unsigned bytes: it begins with {start}, not 00 00 08",
                AGAIN,
            )
        if found != dimensions:
            raise SourceError(
                f"file {self.path}", f"has {found} dimensions, not {dimensions}", AGAIN
            )
        shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", self.read(4 * dimensions))
        if not math.prod(shape[1:]) or max(shape[1:], default=0) >= 2**31:
            raise SourceError(
                f"file {self.path}", f"has images of {shape[1]} x {shape[2]} values", AGAIN
            )
        return shape

    def _some(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> SourceError:
        return SourceError(f"file {self.path}", f"cannot be read: {error}", AGAIN)

    def _told(self) -> str:
        return " x ".join(str(length) for length in self.shape) + " values"


class Idx(LaidOut):
    """Images and labels, laid out as a Parquet file for each part."""

    def lay_out(self, folder: Path, target: Path) -> Path:
        """Lays the parts out; see `lay_out`."""
        return lay_out(folder, target)


FORMAT = Idx()
