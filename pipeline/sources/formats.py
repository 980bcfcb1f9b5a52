"""The table of formats: from a source's section of the YAML to its rows."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import ClassVar, Protocol, TypeAlias, TypeVar

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pipeline.config import Column as ContractColumn
from pipeline.config import Files, Storage
from pipeline.config.source import UNIX_FORMATS
from pipeline.errors import ConfigError, one_line
from pipeline.sources import delimited, json_lines, parquet
from pipeline.sources.catalogue import CatalogueTable, find_table
from pipeline.sources.delimited import CsvFiles, find_csv
from pipeline.sources.delta import DeltaFiles, find_delta, is_delta
from pipeline.sources.json_lines import JsonFiles, find_json
from pipeline.sources.matching import Match, expanded
from pipeline.sources.parquet import ParquetFiles, find_parquet
from pipeline.sources.places import split_pattern
from pipeline.sources.raw import Found, has_option, shortened
from pipeline.sources.text import FORCED

_REFUSED_OPTIONS = {
    *FORCED,
    "allowComments",
    "inferSchema",
    "modifiedAfter",
    "modifiedBefore",
    "path",
    "pathGlobFilter",
    "singleVariantColumn",
}


class Rows(Protocol):
    """The rows of one source, as its files have them.

    Each format has a class that does this, made by a function of `FORMATS`.
    """

    @property
    def files(self) -> Files:
        """The contract and how the files are read."""

    @property
    def found(self) -> Found:
        """The files."""

    knows_columns: ClassVar[bool]
    """Whether it knows which columns a file has."""

    def columns(self) -> list[str]:
        """Names of all columns that the files have, some perhaps more than once."""

    def matches(self) -> list[Match]:
        """The contract against each file, or all of them.

        Raises:
            SchemaError: A policy forbids what a file has or lacks.
        """

    def frames(self, spark: SparkSession) -> list[DataFrame]:
        """The contract's columns as the files spell them, with where each row came from.

        Returns:
            Frames with equal columns: those of the contract, in types that may differ from frame
            to frame; `other_columns` under the policy `keep`; `FILE`, `POSITION`, `MALFORMED`.

        Raises:
            SourceError: A file cannot be read.
            SchemaError: A column has a type that cannot be cast.
        """

    def rows(self) -> int | None:
        """How many there are, by what the files say of themselves; None where they do not."""


RowsOf = TypeVar("RowsOf", bound=Rows)
Opener: TypeAlias = Callable[[SparkSession, Files, str, Storage], Rows]


def _parquet(_: SparkSession, files: Files, setting: str, storage: Storage) -> Rows:
    return ParquetFiles(files, find_parquet(files, setting, storage))


def _csv(_: SparkSession, files: Files, setting: str, storage: Storage) -> Rows:
    return CsvFiles(files, find_csv(files, setting, storage))


def _json(spark: SparkSession, files: Files, setting: str, storage: Storage) -> Rows:
    return JsonFiles(spark, files, find_json(files, setting, storage))


def _delta(_: SparkSession, files: Files, setting: str, storage: Storage) -> Rows:
    found, handle = find_delta(files, setting, storage)
    return DeltaFiles(files, found, handle)


FORMATS: dict[str, Opener] = {
    "parquet": _parquet,
    "csv": _csv,
    "json": _json,
    "delta": _delta,
}
"""Formats by name; each takes the session, a section, the section's name and the lake's storage."""


_ENDINGS = {
    "parquet": parquet.ENDINGS,
    "csv": delimited.ENDINGS,
    "json": json_lines.ENDINGS,
}


def endings_of(files: Files) -> tuple[str, ...]:
    """What names of a source's files end with."""
    return _ENDINGS[files.format]


def open_rows(
    spark: SparkSession,
    files: Files,
    setting: str,
    storage: Storage,
    *,
    reserved: Collection[str] = (),
) -> Rows:
    """Finds the files of a source, and writes its contract's patterns out.

    Args:
        spark: The session.
        files: A section of the YAML.
        setting: Its name, such as `source`, for messages.
        storage: How an object store is reached, unless the section says otherwise.
        reserved: Names that patterns leave out, as columns of ours have them.

    Raises:
        SourceError: There is no file, or one that cannot be read.
        ConfigError: An option would lose rows, a format cannot hold a column's type, or a pattern
            matches nothing.
    """
    _refuse_options(files, setting)
    name = format_of(files, storage)
    _refuse_what_text_cannot_hold(files, setting, name)
    _refuse_unreadable_settings(spark, files, setting)
    if files.table is not None:
        rows: Rows = CatalogueTable(spark, files, find_table(spark, files, setting))
    else:
        rows = FORMATS[name](spark, files, setting, storage)
    if not files.patterns:
        return rows
    return with_contract(rows, expanded(files, rows.columns(), setting, reserved))


def with_contract(rows: RowsOf, files: Files) -> RowsOf:
    """The same files under another contract."""
    changed: RowsOf = replace(rows, files=files)  # type: ignore[type-var]
    return changed


def format_of(files: Files, storage: Storage) -> str:
    """The format of a source: what a folder's log says goes before what the YAML says."""
    if files.table is None and files.format == "parquet" and len(files.path) == 1:
        path = files.path[0]
        if split_pattern(path)[1] is None and is_delta(path, files.storage or storage):
            return "delta"
    return files.format


def _refuse_options(files: Files, setting: str) -> None:
    refused = {option.lower() for option in _REFUSED_OPTIONS}
    for option in files.options:
        if option.lower() in refused:
            raise ConfigError(
                f"{setting}.options.{option}",
                f"is not allowed (value: {files.options[option]!r}): every raw row must be read",
                "Leave it out.",
            )


def _refuse_unreadable_settings(spark: SparkSession, files: Files, setting: str) -> None:
    """Tries patterns of times and defaults once, before they meet a row."""
    defaults = files.policies.missing_column == "default"
    for name, column in files.columns.items():
        place = f"{setting}.columns.{name}"
        for pattern in column.format:
            if pattern not in UNIX_FORMATS and (fault := _bad_pattern(spark, pattern)):
                raise ConfigError(
                    f"{place}.format",
                    f"{pattern!r} is no pattern of Spark: {fault}",
                    "Write it as in dd/MM/yyyy HH:mm:ss.",
                )
        if defaults and column.default is not None and not _casts(spark, column):
            raise ConfigError(
                f"{place}.default",
                f"{column.default!r} is no {column.type}",
                "Correct the value or the type.",
            )


def _bad_pattern(spark: SparkSession, pattern: str) -> str | None:
    try:
        spark.sql("SELECT try_to_timestamp('2024-01-31', :pattern)", {"pattern": pattern}).collect()
    except (PySparkException, Py4JJavaError) as error:
        return shortened(one_line(str(error).partition("SQLSTATE")[0]))
    return None


def _casts(spark: SparkSession, column: ContractColumn) -> bool:
    found = spark.sql(f"SELECT try_cast(:value AS {column.type})", {"value": column.default})
    [row] = found.collect()
    return row[0] is not None


def _refuse_what_text_cannot_hold(files: Files, setting: str, name: str) -> None:
    for column_name, column in files.columns.items():
        if column.type == "binary" and name in ("csv", "json") and files.table is None:
            raise ConfigError(
                f"{setting}.columns.{column_name}.type",
                f"is binary, and {name} files hold text",
                "Read it as string, and derive the bytes by unbase64 or unhex.",
            )
    by_line = (has_option(files, "multiLine") or "false").lower() != "true"
    if name == "json" and not by_line and (files.patterns or files.policies.new_column != "ignore"):
        raise ConfigError(
            f"{setting}.options.multiLine",
            "leaves no lines to look at for the names of columns",
            "Write each object on a line of its own, or name the columns one by one.",
        )
    if name == "json" and files.policies.missing_column == "default":
        raise ConfigError(
            f"{setting}.policies.missing_column",
            "is default: a line of JSON leaves out what is null, so what it lacks is not known",
            "Write null, and coalesce where the column is used.",
        )
    for option, most in (("quote", 1), ("escape", 1), ("comment", 1)):
        value = has_option(files, option)
        if name == "csv" and value is not None and len(value) > most and value != "\\0":
            raise ConfigError(
                f"{setting}.options.{option}", f"is {value!r}", "Give it one character."
            )
    if name != "delta" and (files.version is not None or files.as_of is not None):
        pinned = "version" if files.version is not None else "as_of"
        raise ConfigError(
            f"{setting}.{pinned}", f"says nothing to the format {name}", "Leave it out."
        )
