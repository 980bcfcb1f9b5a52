"""Raw files: found, checked by their footers, and read into one frame.

Every row carries where it came from, so that ties between duplicates are broken the same way
every time and a quarantined row can be traced back.
"""

from __future__ import annotations

import glob
import gzip
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipeline.config import Files
from pipeline.errors import ConfigError, SchemaError, SourceError
from pipeline.lake.faults import unreadable_file
from pipeline.lake.schema import plain, to_spark
from pipeline.lake.snapshot import unescaped

FILE = "_source_file"
POSITION = "_source_position"
MALFORMED = "_malformed"
FOOTER_THREADS = 8
UNREADABLE_NAME = re.compile(r"[:*?\[\]{}\\]")
ENDINGS = {
    "parquet": ("*.parquet",),
    "csv": ("*.csv", "*.csv.gz"),
    "json": ("*.json", "*.jsonl", "*.json.gz"),
}
# Options under which Spark would skip rows in silence, or not mark the lines it cannot parse.
FORCED = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": MALFORMED,
    "columnPruning": "false",  # a line of too many or too few fields is malformed
    "enforceSchema": "false",  # Spark compares each file's header with the columns we name
    "ignoreCorruptFiles": "false",
    "ignoreMissingFiles": "false",
}
REFUSED_OPTIONS = {*FORCED, "modifiedAfter", "modifiedBefore", "pathGlobFilter", "inferSchema"}
# What Spark reads Parquet's unsigned numbers as.
SIGNED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
}
LARGEST_PRECISION = 38  # of Spark's decimals

# Contract type to the families of stored types that its values may come from.
NUMBERS = frozenset({"number", "text"})
CASTABLE = {
    "string": frozenset({"boolean", "number", "time", "text"}),
    "boolean": frozenset({"boolean", "text"}),
    "int": NUMBERS,
    "bigint": NUMBERS,
    "float": NUMBERS,
    "double": NUMBERS,
    "date": frozenset({"time", "text"}),
    "timestamp": frozenset({"time", "text"}),
    "binary": frozenset({"binary"}),
}


@dataclass(frozen=True)
class RawFile:
    """One raw file as it was found."""

    path: str
    name: str
    """Path relative to the source, such as `2013/flights-01.parquet`: the same on every machine."""
    bytes: int
    modified_ns: int


def find_files(files: Files, setting: str) -> list[RawFile]:
    """The raw files of a source, by path.

    Args:
        files: Path and format from the YAML.
        setting: Where in the YAML, for the message.

    Raises:
        SourceError: There is none, one has no bytes, or a name that Spark cannot read.
        ConfigError: An option would lose rows, or a format cannot hold a column's type.
    """
    where = f"{setting}.path"
    _refuse_options(files, setting)
    _refuse_bytes_of_text(files, setting)
    folder, root = Path(files.path[0]), _root(files)
    if folder.is_dir():
        paths = [path for ending in ENDINGS[files.format] for path in folder.rglob(ending)]
    else:
        paths = [Path(path) for path in glob.glob(files.path[0], recursive=True)]  # noqa: PTH207 (Path.glob takes no absolute pattern)
    # A folder that Spark wrote is often called `x.parquet` itself.
    absolute = [Path(os.path.abspath(path)) for path in paths if path.is_file()]  # noqa: PTH100 (links stay as they are named)
    named = {path.relative_to(root).as_posix(): path for path in absolute}
    visible = {name: path for name, path in sorted(named.items()) if not _is_hidden(name)}
    if not visible:
        raise SourceError(
            where,
            f"there is no {files.format} file in {files.path[0]}",
            "Put the raw files there, or set the path to where they are.",
        )
    unreadable = [path for path in visible.values() if UNREADABLE_NAME.search(str(path))]
    if unreadable:
        raise SourceError(
            f"file {unreadable[0]}",
            r"has one of : * ? [ ] { } \ in its path, which Spark would take for a pattern",
            "Rename it.",
        )
    found = [
        RawFile(str(path), name, path.stat().st_size, path.stat().st_mtime_ns)
        for name, path in visible.items()
    ]
    empty = [file.path for file in found if file.bytes == 0]
    if empty:
        raise SourceError(
            f"file {empty[0]}",
            f"is empty (0 bytes; {len(empty)} such files)",
            "Remove it, or deliver it again.",
        )
    return found


@contextmanager
def reading(setting: str) -> Iterator[None]:
    """Translates Spark's failure to read raw files."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise unreadable_file(error) or SourceError(
            f"{setting}.path",
            f"could not be read: {str(error).strip().splitlines()[0]}",
            "Mend the cause and run the stage again; nothing was committed.",
        ) from error


def _refuse_options(files: Files, setting: str) -> None:
    refused = {option.lower() for option in REFUSED_OPTIONS}
    for option in files.options:
        if option.lower() in refused:
            raise ConfigError(
                f"{setting}.options.{option}",
                f"is not allowed (value: {files.options[option]!r}): every raw row must be read",
                "Leave it out.",
            )


def _refuse_bytes_of_text(files: Files, setting: str) -> None:
    for name, column in files.columns.items():
        if column.type == "binary" and files.format != "parquet":
            raise ConfigError(
                f"{setting}.columns.{name}.type",
                f"is binary, and {files.format} files hold text",
                "Read it as string, and derive the bytes by unbase64 or unhex.",
            )


def _root(files: Files) -> Path:
    """The folder that names are relative to: the part of the path without wildcards."""
    root = Path(os.path.abspath(files.path[0]))  # noqa: PTH100 (links stay as they are named)
    if root.is_dir():
        return root
    parts = root.parts
    wild = (place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[: next(wild, len(parts) - 1)])


def _is_hidden(name: str) -> bool:
    """Whether it is another writer's file in progress, or a log such as `_delta_log`."""
    return any(part.startswith((".", "_")) for part in name.split("/"))


def read_files(spark: SparkSession, files: Files, found: Sequence[RawFile]) -> list[DataFrame]:
    """The contract's columns as the files spell them, with `FILE`, `POSITION` and `MALFORMED`.

    One month's file may hold a column as `int64`, the next one's as `double`: files are read in
    groups of equal types, and `contract.typed` brings every group to the same columns.

    Returns:
        One frame for each group of files with equal types.

    Raises:
        SourceError: A Parquet file cannot be read.
        SchemaError: A column of the contract is missing, or of a type that cannot be cast.
    """
    if files.format != "parquet":
        return [_read_text(spark, files, group) for group in _same_header(files, found)]
    groups: dict[pa.Schema, list[str]] = {}
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        schemas = threads.map(lambda file: _physical_schema(file, files), found)
    for file, schema in zip(found, schemas, strict=True):
        groups.setdefault(schema, []).append(file.path)
    return [
        _with_origin(
            _read_parquet(spark, files, schema, paths), files, F.col("_metadata.row_index")
        )
        for schema, paths in groups.items()
    ]


def rows_by_footers(files: Files, found: Sequence[RawFile]) -> int | None:
    """Rows of all raw files without reading them; None where the format has no footers."""
    if files.format != "parquet":
        return None
    return sum(int(pq.read_metadata(file.path).num_rows) for file in found)


def _physical_schema(file: RawFile, files: Files) -> pa.Schema:
    """The contract's columns with the types they have in this file."""
    where = f"file {file.path}"
    try:
        footer = pq.read_metadata(file.path).schema
        schema = footer.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            where, f"is not readable Parquet: {error}", "Deliver it again, or remove it."
        ) from error
    for name, column in files.columns.items():
        if name not in schema.names:
            raise SchemaError(
                f"{where}, column {name}",
                f"is missing; the file has {', '.join(schema.names)}",
                "Correct the contract under `columns`, or deliver the file again.",
            )
        family = _family(schema.field(name).type)
        if family is None or family not in CASTABLE[column.type]:
            raise SchemaError(
                f"{where}, column {name}",
                f"has type {schema.field(name).type}, which cannot be cast to {column.type}",
                "Correct the type in the contract, or deliver the file again.",
            )
    leaves = {footer.column(i).path: footer.column(i) for i in range(len(footer.names))}
    return pa.schema(
        [
            pa.field(name, _stored(schema.field(name).type, leaves[name].physical_type))
            for name in files.columns
        ]
    )


def _stored(kind: pa.DataType, physical: str) -> pa.DataType:
    """The type by which Spark can read it; nanoseconds stay, to be divided later."""
    if physical == "INT96":  # Spark's own old timestamps
        return pa.timestamp("us", tz="UTC")
    return kind if _is_nanoseconds(kind) else SIGNED.get(plain(kind), plain(kind))


def _is_nanoseconds(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.unit == "ns")


def _family(kind: pa.DataType) -> str | None:
    """What a stored type is for casting; None for types that never cast."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_decimal(kind):
        return "number" if kind.precision <= LARGEST_PRECISION else None
    if pa.types.is_integer(kind) or (pa.types.is_floating(kind) and kind != pa.float16()):
        return "number"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return "time"
    if pa.types.is_null(kind) or pa.types.is_string(plain(kind)):
        return "text"
    return "binary" if pa.types.is_binary(plain(kind)) else None


def _read_parquet(
    spark: SparkSession, files: Files, schema: pa.Schema, paths: Sequence[str]
) -> DataFrame:
    nanoseconds = [field.name for field in schema if _is_nanoseconds(field.type)]
    # Spark has no nanoseconds: with `nanosAsLong` it hands them over as numbers.
    readable = pa.schema(
        [
            pa.field(field.name, pa.int64() if field.name in nanoseconds else field.type)
            for field in schema
        ]
    )
    reader = spark.read.options(**files.options).schema(to_spark(readable))
    frame = reader.parquet(*paths)
    micros = {name: F.timestamp_micros(F.expr(f"`{name}` DIV 1000")) for name in nanoseconds}
    return frame.withColumns({**micros, MALFORMED: F.lit(None).cast("string")})


def _same_header(files: Files, found: Sequence[RawFile]) -> list[list[RawFile]]:
    """The files in groups of equal columns: one month's CSV may have them in another order."""
    if files.format != "csv":
        return [list(found)]
    groups: dict[bytes, list[RawFile]] = {}
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        lines = threads.map(_first_line, found)
    for file, line in zip(found, lines, strict=True):
        groups.setdefault(line if _has_header(files) else b"", []).append(file)
    return list(groups.values())


def _has_header(files: Files) -> bool:
    options = {name.lower(): value for name, value in files.options.items()}
    return options.get("header", "true").lower() == "true"


def _first_line(file: RawFile) -> bytes:
    opened = gzip.open if file.path.endswith(".gz") else open
    try:
        with opened(file.path, "rb") as stream:
            return stream.readline().rstrip(b"\r\n")
    except (OSError, EOFError) as error:
        raise SourceError(
            f"file {file.path}", f"cannot be read: {error}", "Deliver it again, or remove it."
        ) from error


def _read_text(spark: SparkSession, files: Files, found: Sequence[RawFile]) -> DataFrame:
    """CSV or JSON: every column as text, lines that do not parse kept in `MALFORMED`."""
    paths = [file.path for file in found]
    options = {"header": "true", **files.options, **FORCED}
    names = list(files.columns)
    if files.format == "csv":
        with reading("source"):
            names = spark.read.options(**options).csv(paths[0]).columns
        _require_columns(files, names, found[0].path)
    schema = StructType([StructField(name, StringType()) for name in [*names, MALFORMED]])
    reader = spark.read.options(**options).schema(schema)
    frame = reader.csv(paths) if files.format == "csv" else reader.json(paths)
    frame = frame.select(*files.columns, MALFORMED, "_metadata")
    # Lines have no index; the id grows along a block of a file, and blocks have their start.
    position = F.col("_metadata.file_block_start") + F.monotonically_increasing_id() % (1 << 33)
    return _with_origin(frame, files, position)


def _require_columns(files: Files, names: Sequence[str], path: str) -> None:
    missing = [name for name in files.columns if name not in names]
    if missing:
        raise SchemaError(
            f"file {path}, column {missing[0]}",
            f"is missing; the header has {', '.join(names)}",
            "Correct the contract under `columns`, or deliver the file again.",
        )


def _with_origin(frame: DataFrame, files: Files, position: Column) -> DataFrame:
    path = unescaped(F.col("_metadata.file_path"))
    root = str(_root(files)).lstrip("/")
    usual = f"file:///{root}/"
    # A pattern takes longer, for every row, than all else that is done for it here.
    below = F.when(
        F.startswith(path, F.lit(usual)), F.substr(path, F.lit(len(usual) + 1))
    ).otherwise(F.regexp_replace(path, rf"^file:/*\Q{root}\E/+", ""))
    return frame.withColumns({FILE: below, POSITION: position}).drop("_metadata")
