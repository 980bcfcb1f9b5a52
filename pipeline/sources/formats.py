"""From a source's section of the YAML to its rows, by the table of formats."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from typing import TypeVar

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipeline.config import Column as ContractColumn
from pipeline.config import Files, Storage
from pipeline.config.formats import FORMATS, LAID_OUT
from pipeline.config.source import UNIX_FORMATS
from pipeline.errors import ConfigError, one_line
from pipeline.sources.catalogue import CatalogueTable, find_table
from pipeline.sources.delta import is_delta
from pipeline.sources.format import Format, LaidOut, Rows
from pipeline.sources.matching import expanded
from pipeline.sources.places import split_pattern
from pipeline.sources.raw import shortened
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


RowsOf = TypeVar("RowsOf", bound=Rows)


@cache
def format_named(name: str) -> Format:
    """What is particular to a format; its module is imported the first time."""
    found: Format = importlib.import_module(FORMATS[name]).FORMAT
    return found


@cache
def layout_named(name: str) -> LaidOut:
    """The same of a format that is laid out as Parquet first."""
    found: LaidOut = importlib.import_module(LAID_OUT[name]).FORMAT
    return found


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
    chosen = format_of(files, storage)
    chosen.require_readable(files, setting)
    _refuse_unreadable_settings(spark, files, setting)
    if files.table is not None:
        rows: Rows = CatalogueTable(spark, files, find_table(spark, files, setting))
    else:
        rows = chosen.open(spark, files, setting, storage)
    if not files.patterns:
        return rows
    return with_contract(rows, expanded(files, rows.columns(), setting, reserved))


def with_contract(rows: RowsOf, files: Files) -> RowsOf:
    """The same files under another contract."""
    changed: RowsOf = replace(rows, files=files)  # type: ignore[type-var]
    return changed


def format_of(files: Files, storage: Storage) -> Format:
    """The format of a source: what a folder's log says goes before what the YAML says."""
    if files.table is None and files.format == "parquet" and len(files.path) == 1:
        path = files.path[0]
        if split_pattern(path)[1] is None and is_delta(path, files.storage or storage):
            return format_named("delta")
    return format_named(files.format)


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
