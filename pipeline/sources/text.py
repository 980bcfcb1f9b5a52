"""What CSV and JSON share: options, encodings, positions, a look at each file as a whole."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipeline.config import Files
from pipeline.errors import ConfigError, SourceError, one_line
from pipeline.sources.format import Format
from pipeline.sources.raw import MALFORMED, Found, RawFile, has_option, with_origin
from pipeline.sources.wholeness import Fault, Look, encoding_fault, fault_of
from pipeline.stores.reading import open_file

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# Options under which Spark would skip rows in silence, or not mark the lines it cannot parse.
FORCED = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": MALFORMED,
    "columnPruning": "false",  # a line of too many or too few fields is malformed
    "enforceSchema": "false",  # Spark compares each file's header with the columns we name
    "ignoreCorruptFiles": "false",
    "ignoreMissingFiles": "false",
}
_HEAD_BYTES = 1 << 20
# Up to here the driver looks by itself: Spark would start Python workers for it.
_BYTES_ON_DRIVER = 256 << 20
_THREADS = 4


class TextFormat(Format):
    """A format whose files are text."""

    by_block: ClassVar = True

    def require_readable(self, files: Files, setting: str) -> None:
        """Refuses columns of a type that text cannot hold, too."""
        for name, column in files.columns.items():
            if column.type == "binary":
                raise ConfigError(
                    f"{setting}.columns.{name}.type",
                    f"is binary, and {self.name} files hold text",
                    "Read it as string, and derive the bytes by unbase64 or unhex.",
                )
        super().require_readable(files, setting)


def compressed(*endings: str) -> tuple[str, ...]:
    """Endings of names, plain and compressed."""
    return tuple(f"{ending}{packed}" for ending in endings for packed in ("", *COMPRESSIONS))


def text_schema(names: Sequence[str]) -> StructType:
    """Columns that are all text."""
    return StructType([StructField(name, StringType()) for name in names])


def with_text_origin(frame: DataFrame, root: str) -> DataFrame:
    """Adds `FILE` and `POSITION`.

    Records have no index in Spark: an id grows along a block of a file, and blocks have their
    start. Under `session.one_file_a_task` a block is a whole file, and this its records' index.
    """
    position = F.col("_metadata.file_block_start") + F.monotonically_increasing_id() % (1 << 33)
    return with_origin(frame, root, position)


def packing_of(file: RawFile) -> str | None:
    """How a file is compressed, by the ending of its name, as Arrow calls it."""
    name = file.name.lower()
    return next((how for ending, how in COMPRESSIONS.items() if name.endswith(ending)), None)


def head_of(file: RawFile, encoding: str | None) -> str:
    """The beginning of a file as text.

    Raises:
        SourceError: It cannot be decompressed, or its first bytes are not of its encoding.
    """
    try:
        with open_file(file.path) as stored:
            packed = packing_of(file)
            stream = stored if packed is None else pa.CompressedInputStream(stored, packed)
            content: bytes = stream.read(_HEAD_BYTES)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise SourceError(
            f"file {file.path}",
            f"cannot be read: {one_line(error)}",
            "Deliver it again, or remove it.",
        ) from error
    fault = encoding_fault(content, encoding)
    if fault is not None:
        raise SourceError(f"file {file.path}", fault.problem, fault.remedy)
    try:
        decoder = codecs.getincrementaldecoder(encoding or "utf-8")("replace")
    except LookupError:  # Java may know it
        decoder = codecs.getincrementaldecoder("latin-1")("replace")
    return decoder.decode(content).removeprefix("\ufeff")


def require_whole(
    spark: SparkSession, files: Files, found: Found, look: Look | None = None
) -> None:
    """Looks at each file as a whole: its encoding, and how it quotes.

    Args:
        spark: The session: of many bytes, a task a file looks.
        files: The encoding.
        found: The files.
        look: What else their format asks of them.

    Raises:
        SourceError: A file is not of its encoding, is damaged, or leaves a quote open.
    """
    encoding = encoding_of(files)
    wanted = [(file.path, packing_of(file)) for file in found.files]

    def looked_at(file: tuple[str, str | None]) -> tuple[str, Fault | None]:
        return file[0], fault_of(*file, encoding, look)

    if found.bytes <= _BYTES_ON_DRIVER:
        with ThreadPoolExecutor(_THREADS) as threads:
            looked = list(threads.map(looked_at, wanted))
    else:
        tasks = spark.sparkContext.parallelize(wanted, len(wanted))
        looked = tasks.map(looked_at).filter(lambda each: each[1] is not None).collect()
    for path, fault in looked:
        if fault is not None:
            raise SourceError(f"file {path}", fault.problem, fault.remedy)


def encoding_of(files: Files) -> str | None:
    """The encoding that options name."""
    return has_option(files, "encoding") or has_option(files, "charset")
