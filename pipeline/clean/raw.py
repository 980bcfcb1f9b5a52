"""Raw files: found, checked by their footers, and read into one frame.

Every row carries where it came from, so that ties between duplicates are broken the same way
every time and a quarantined row can be traced back.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipeline.config import Files
from pipeline.errors import SchemaError, SourceError
from pipeline.lake.schema import plain, to_spark

FILE = "_source_file"
POSITION = "_source_position"
MALFORMED = "_malformed"
FOOTER_THREADS = 8
ENDINGS = {
    "parquet": ("*.parquet",),
    "csv": ("*.csv", "*.csv.gz"),
    "json": ("*.json", "*.jsonl", "*.json.gz"),
}
NANOSECONDS = (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC"))

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
}


@dataclass(frozen=True)
class RawFile:
    """One raw file as it was found."""

    path: str
    bytes: int
    modified_ns: int


def find_files(files: Files, setting: str) -> list[RawFile]:
    """The raw files of a source, by path.

    Args:
        files: Path and format from the YAML.
        setting: Where in the YAML, for the message.

    Raises:
        SourceError: There is none, or one has no bytes.
    """
    where = f"{setting}.path"
    folder = Path(files.path)
    if folder.is_dir():
        paths = [path for ending in ENDINGS[files.format] for path in folder.rglob(ending)]
    else:
        paths = [Path(path) for path in glob.glob(files.path, recursive=True)]  # noqa: PTH207 (Path.glob takes no absolute pattern)
    visible = sorted(path for path in paths if not path.name.startswith((".", "_")))
    if not visible:
        raise SourceError(
            where,
            f"there is no {files.format} file in {files.path}",
            "Put the raw files there, or set the path to where they are.",
        )
    found = [
        RawFile(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns)
        for path in visible
    ]
    empty = [file.path for file in found if file.bytes == 0]
    if empty:
        raise SourceError(
            f"file {empty[0]}",
            f"is empty (0 bytes; {len(empty)} such files)",
            "Remove it, or deliver it again.",
        )
    return found


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
        return [_read_text(spark, files, found)]
    groups: dict[pa.Schema, list[str]] = {}
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        schemas = threads.map(lambda file: _physical_schema(file, files), found)
    for file, schema in zip(found, schemas, strict=True):
        groups.setdefault(schema, []).append(file.path)
    return [
        _with_origin(_read_parquet(spark, files, schema, paths), F.col("_metadata.row_index"))
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
        schema = pq.read_schema(file.path)
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
    return pa.schema([schema.field(name) for name in files.columns]).remove_metadata()


def _family(kind: pa.DataType) -> str | None:
    """What a stored type is for casting; None for types that never cast."""
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return "time"
    if pa.types.is_null(kind) or pa.types.is_string(plain(kind)):
        return "text"
    return None


def _read_parquet(
    spark: SparkSession, files: Files, schema: pa.Schema, paths: Sequence[str]
) -> DataFrame:
    nanoseconds = [field.name for field in schema if field.type in NANOSECONDS]
    # Spark has no nanoseconds: with `nanosAsLong` it hands them over as numbers.
    readable = pa.schema(
        [
            pa.field(field.name, pa.int64() if field.name in nanoseconds else plain(field.type))
            for field in schema
        ]
    )
    frame = spark.read.options(**files.options).schema(to_spark(readable)).parquet(*paths)
    micros = {name: F.timestamp_micros(F.expr(f"`{name}` DIV 1000")) for name in nanoseconds}
    return frame.withColumns({**micros, MALFORMED: F.lit(False)})


def _read_text(spark: SparkSession, files: Files, found: Sequence[RawFile]) -> DataFrame:
    """CSV or JSON: every column as text, lines that do not parse marked."""
    paths = [file.path for file in found]
    options = {"columnNameOfCorruptRecord": MALFORMED, **files.options}
    names = list(files.columns)
    if files.format == "csv":
        # With enforceSchema=false Spark compares each file's header with the first one's.
        options = {"header": "true", "enforceSchema": "false", **options}
        names = spark.read.options(**options).csv(paths[0]).columns
        _require_columns(files, names, paths[0])
    schema = StructType([StructField(name, StringType()) for name in [*names, MALFORMED]])
    reader = spark.read.options(**options).schema(schema)
    frame = reader.csv(paths) if files.format == "csv" else reader.json(paths)
    frame = frame.select(
        *files.columns, (F.col(MALFORMED).isNotNull()).alias(MALFORMED), "_metadata"
    )
    # Lines have no index; the id grows along a block of a file, and blocks have their start.
    position = F.col("_metadata.file_block_start") + F.monotonically_increasing_id() % (1 << 33)
    return _with_origin(frame, position)


def _require_columns(files: Files, names: Sequence[str], path: str) -> None:
    missing = [name for name in files.columns if name not in names]
    if missing:
        raise SchemaError(
            f"file {path}, column {missing[0]}",
            f"is missing; the header has {', '.join(names)}",
            "Correct the contract under `columns`, or deliver the file again.",
        )


def _with_origin(frame: DataFrame, position: Column) -> DataFrame:
    name = F.element_at(F.split(F.col("_metadata.file_path"), "/"), -1)
    return frame.withColumns({FILE: name, POSITION: position}).drop("_metadata")
