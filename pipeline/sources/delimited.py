"""Raw CSV, as RFC 4180 has it: quotes doubled inside quotes, line breaks inside quotes.

Spark's parser never says that a quote was left open: it takes the rest of the file for one value,
or cuts a value at the line's end. So each file is looked at whole before it is parsed, by the task
that would parse it: see `wholeness.py`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pyspark.sql import Column, DataFrame, SparkSession

from pipeline.config import Files, Storage
from pipeline.errors import ConfigError, SchemaError, one_line
from pipeline.sources.assembly import assembled
from pipeline.sources.matching import Match, match, refuse_twins
from pipeline.sources.quoting import Quoting
from pipeline.sources.raw import (
    MALFORMED,
    Found,
    RawFile,
    has_option,
    partition_value,
    quoted,
    shortened,
)
from pipeline.sources.text import (
    FORCED,
    TextFormat,
    compressed,
    encoding_of,
    head_of,
    require_whole,
    text_schema,
    with_text_origin,
)

# RFC 4180, unless `options` say otherwise.
_USUAL = {"header": "true", "multiLine": "true", "escape": '"'}
_THREADS = 8


@dataclass(frozen=True)
class CsvFiles:
    """CSV files of one source; every value is text, lines that do not parse are in `MALFORMED`."""

    knows_columns: ClassVar = True

    files: Files
    found: Found

    def columns(self) -> list[str]:
        """Names of all columns that any of the files has."""
        return [name for header in self._headers for name in header]

    def matches(self) -> list[Match]:
        """Of each file."""
        return [
            self._match(file, header)
            for file, header in zip(self.found.files, self._headers, strict=True)
        ]

    def frames(self, spark: SparkSession) -> list[DataFrame]:
        """The rows, a frame for each group of files with equal columns."""
        matches = self.matches()
        require_whole(spark, self.files, self.found, self._quoting)
        groups: dict[tuple[str, ...], tuple[Match, list[RawFile]]] = {}
        for file, header, matched in zip(self.found.files, self._written, matches, strict=True):
            refuse_twins(header, header, f"file {file.path}")
            groups.setdefault((*header, "/", *file.partition), (matched, []))[1].append(file)
        return [
            self._frame(spark, matched, group, header[: header.index("/")])
            for header, (matched, group) in groups.items()
        ]

    def rows(self) -> int | None:
        """Not known without parsing."""
        return None

    @cached_property
    def _options(self) -> dict[str, str]:
        given = {name.lower() for name in self.files.options}
        usual = {name: value for name, value in _USUAL.items() if name.lower() not in given}
        return {**usual, **self.files.options, **FORCED}

    @property
    def _quoting(self) -> Quoting | None:
        """How the files quote; None where a look at the quotes would tell nothing."""
        told = {name.lower(): value for name, value in self._options.items()}
        quote = told.get("quote", '"')
        if quote in ("", "\0"):
            return None
        return Quoting(
            quote=quote,
            escape=told.get("escape", quote),
            separator=self._separator,
            comment=told.get("comment", ""),
            multi_line=told["multiline"].lower() == "true",
        )

    @property
    def _separator(self) -> str:
        given = has_option(self.files, "sep") or has_option(self.files, "delimiter") or ","
        return given.replace("\\t", "\t")  # as Spark reads it

    @cached_property
    def _written(self) -> list[list[str]]:
        """The header of each file."""
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(self._header, self.found.files))

    @property
    def _headers(self) -> list[list[str]]:
        """Of each file, its columns, those that its folders name last, and in place of its own."""
        return [
            [*(name for name in header if name not in file.partition), *file.partition]
            for file, header in zip(self.found.files, self._written, strict=True)
        ]

    def _header(self, file: RawFile) -> list[str]:
        if (has_option(self.files, "header") or "true").lower() != "true":
            # Without names, columns are those of the contract, in its order.
            if self.files.patterns:
                raise ConfigError(
                    f"columns.{self.files.patterns[0]}",
                    "is a pattern, and without a header columns have no names to match",
                    "Write each column out, in the order of the files.",
                )
            named = ((c.names or (name,))[0] for name, c in self.files.columns.items())
            return [name for name in named if name not in file.partition]
        separator, text = self._separator, head_of(file, encoding_of(self.files))
        first = _first_record(text, separator, self._quoting)
        names = [name.strip() if self._strips else name for name in first]
        alone = len(names) == 1 and names[0] not in self.files.columns
        if alone and any(mark in names[0] for mark in ";\t|") and separator == ",":
            mark = next(mark for mark in ";\t|" if mark in names[0])
            raise SchemaError(
                f"file {file.path}",
                f"has one column only, {self._shown(names[0])}",
                f"Its values seem to be separated by {json.dumps(mark)}: set options: "
                f"{{sep: {json.dumps(mark)}}}.",
            )
        return names

    def _shown(self, line: str) -> str:
        # Where a header is missing, it is a row.
        hidden = any(column.sensitive for column in self.files.columns.values())
        return "which is not shown" if hidden else repr(shortened(one_line(line)))

    @property
    def _strips(self) -> bool:
        return (has_option(self.files, "ignoreLeadingWhiteSpace") or "false").lower() == "true"

    def _match(self, file: RawFile, header: Sequence[str]) -> Match:
        return match(self.files, header, f"file {file.path}")

    def _frame(
        self, spark: SparkSession, matched: Match, group: Sequence[RawFile], header: Sequence[str]
    ) -> DataFrame:
        partitions = group[0].partition
        reader = spark.read.options(**self._options).schema(text_schema([*header, MALFORMED]))
        frame = reader.csv([file.spark_path for file in group]).select("*", "_metadata")
        frame = with_text_origin(frame, self.found.root)

        def value(name: str) -> Column:
            return partition_value(name) if name in partitions else quoted(name)

        values = {name: value(path[0]) for name, path in matched.found.items()}
        return assembled(frame, self.files, values, {name: value(name) for name in matched.new})


def _first_record(text: str, separator: str, quoting: Quoting | None) -> list[str]:
    """The names in a header; a line that no CSV reader takes is one name."""
    text = text.lstrip("\r\n")
    while quoting is not None and quoting.comment and text.startswith(quoting.comment):
        text = text.partition("\n")[2].lstrip("\r\n")
    # Python's reader knows separators of one character.
    one = separator if len(separator) == 1 else "\x1f"
    lines = io.StringIO(text.replace(separator, one), newline="")
    try:
        if quoting is None:
            return next(csv.reader(lines, delimiter=one, quoting=csv.QUOTE_NONE), [])
        return next(csv.reader(lines, delimiter=one, quotechar=quoting.quote), [])
    except csv.Error:
        return text.splitlines()[:1]


class Csv(TextFormat):
    """CSV files; every value is text."""

    name: ClassVar = "csv"
    endings: ClassVar = compressed(".csv")

    def require_readable(self, files: Files, setting: str) -> None:
        """Refuses marks of several characters, of which Spark would take the first."""
        super().require_readable(files, setting)
        for option in ("quote", "escape", "comment"):
            value = has_option(files, option)
            if value is not None and len(value) > 1 and value != "\\0":
                raise ConfigError(
                    f"{setting}.options.{option}", f"is {value!r}", "Give it one character."
                )

    def open(self, _: SparkSession, files: Files, setting: str, storage: Storage) -> CsvFiles:
        """Finds the CSV files of a source."""
        return CsvFiles(files, self.find(files, setting, storage))


FORMAT = Csv()
