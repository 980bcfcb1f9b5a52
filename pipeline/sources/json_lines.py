"""Raw JSON, an object a line; every value is text, nested ones as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipeline.config import Files, Storage
from pipeline.errors import ConfigError
from pipeline.sources.assembly import assembled
from pipeline.sources.matching import Match, match, refuse_twins
from pipeline.sources.objects import Objects
from pipeline.sources.raw import (
    MALFORMED,
    Found,
    RawFile,
    has_option,
    partition_value,
    quoted,
    reading,
)
from pipeline.sources.text import (
    FORCED,
    TextFormat,
    compressed,
    encoding_of,
    head_of,
    require_whole,
    with_text_origin,
)


@dataclass(frozen=True)
class JsonFiles:
    """JSON files of one source.

    A line may leave out what is null, so no line tells which columns a file has: a column that a
    file lacks is null there. All lines are looked at for their keys where the contract asks for
    what it does not name: a pattern, or the policies `keep` and `fail` for new columns.

    Args:
        spark: The session, for that look.
        files: The contract.
        found: The files.
    """

    knows_columns: ClassVar = False

    spark: SparkSession
    files: Files
    found: Found

    def columns(self) -> list[str]:
        """Names of all keys that any line has, and of partition columns."""
        return [*self._keys, *self._partitions]

    def matches(self) -> list[Match]:
        """One for all files; new columns are only known where they are asked for."""
        asked = self.files.patterns or self.files.policies.new_column != "ignore"
        names = self.columns() if asked else self._partitions
        optional = self.files.model_copy(
            update={"policies": self.files.policies.model_copy(update={"missing_column": "null"})}
        )
        where = f"file {self.found.files[0].path}"
        # Which keys a line lacks says nothing of which columns a file has.
        return [replace(match(optional, names, where), missing=())]

    def frames(self, spark: SparkSession) -> list[DataFrame]:
        """The rows, a frame for each group of files in folders that name the same columns."""
        for file in self.found.files:
            head_of(file, encoding_of(self.files))
        require_whole(spark, self.files, self.found, Objects(by_line=_is_by_line(self.files)))
        groups: dict[tuple[str, ...], list[RawFile]] = {}
        for file in self.found.files:
            groups.setdefault(tuple(file.partition), []).append(file)
        [matched] = self.matches()
        new = matched.new if self.files.policies.new_column == "keep" else ()
        return [self._frame(spark, group, partitions, new) for partitions, group in groups.items()]

    def rows(self) -> int | None:
        """Not known without parsing."""
        return None

    def _frame(
        self,
        spark: SparkSession,
        group: Sequence[RawFile],
        partitions: Sequence[str],
        new: Sequence[str],
    ) -> DataFrame:
        spelled = {
            name: self._spellings(column.names or (name,))
            for name, column in self.files.columns.items()
        }
        keys = dict.fromkeys(path[0] for paths in spelled.values() for path in paths)
        # Spark tells keys apart without their case.
        refuse_twins([*keys, *new], [*keys, *new], f"file {group[0].path}")
        read = [key for key in dict.fromkeys((*keys, *new)) if key not in partitions]
        options = {"allowSingleQuotes": "false", **self.files.options, **FORCED}
        # A key of which only fields are asked for is read as their struct: taken out of its text, a
        # number would lose digits.
        nested = {key: _fields(key, spelled.values()) for key in read}
        schema = StructType(
            [StructField(key, kind or StringType()) for key, kind in nested.items()]
            + [StructField(MALFORMED, StringType())]
        )
        reader = spark.read.options(**options).schema(schema)
        frame = reader.json([file.spark_path for file in group])
        frame = with_text_origin(frame.select("*", "_metadata"), self.found.root)

        def value(path: tuple[str, ...]) -> Column:
            if path[0] in partitions:
                return partition_value(path[0])
            if len(path) == 1:
                return quoted(path[0])
            if nested[path[0]] is not None:
                return quoted(*path)
            return F.get_json_object(quoted(path[0]), "$" + "".join(f"['{p}']" for p in path[1:]))

        values = {
            name: F.coalesce(*(value(path) for path in paths)) for name, paths in spelled.items()
        }
        return assembled(frame, self.files, values, {name: value((name,)) for name in new})

    def _spellings(self, wanted: Sequence[str]) -> list[tuple[str, ...]]:
        """The ways to a column of the contract, of which each line may have one."""
        ways: list[tuple[str, ...]] = []
        for name in wanted:
            ways.append((self._as_written(name),))
            if "." in name:
                first, *fields = name.split(".")
                ways.append((self._as_written(first), *fields))
        return list(dict.fromkeys(ways))

    def _as_written(self, name: str) -> str:
        """A key as the files write it, under the policy for case."""
        if self.files.policies.case == "exact":
            return name
        alike = [key for key in self._keys if key.lower() == name.lower()]
        refuse_twins(alike[:1], alike, f"file {self.found.files[0].path}")
        return alike[0] if alike else name

    @cached_property
    def _partitions(self) -> list[str]:
        return list(dict.fromkeys(name for file in self.found.files for name in file.partition))

    @cached_property
    def _keys(self) -> list[str]:
        paths = [file.spark_path for file in self.found.files]
        options: dict[str, Any] = {
            name: value
            for name, value in self.files.options.items()
            if name.lower() in ("encoding", "linesep")
        }
        lines = self.spark.read.options(**options).text(paths)
        keys = lines.select(F.explode(F.json_object_keys("value")).alias("key")).distinct()
        with reading("source"):
            # The names of columns, no rows.
            return sorted(row["key"] for row in keys.collect())


def _fields(key: str, spelled: Iterable[Sequence[tuple[str, ...]]]) -> StructType | None:
    """The shape of a key of which only fields are asked for; None where it is asked for whole."""
    paths = [path[1:] for paths in spelled for path in paths if path[0] == key]
    if not paths or () in paths:
        return None
    return _struct(paths)


def _struct(paths: Sequence[tuple[str, ...]]) -> StructType | None:
    """Text at the end of each path; None where one goes through the end of another."""
    fields = []
    for name in dict.fromkeys(path[0] for path in paths):
        below = [path[1:] for path in paths if path[0] == name]
        deeper = [path for path in below if path]
        kind = _struct(deeper) if deeper else StringType()
        if kind is None or (deeper and len(deeper) < len(below)):
            return None
        fields.append(StructField(name, kind))
    return StructType(fields)


def _is_by_line(files: Files) -> bool:
    return (has_option(files, "multiLine") or "false").lower() != "true"


class Json(TextFormat):
    """JSON files, an object a line."""

    name: ClassVar = "json"
    endings: ClassVar = compressed(".json", ".jsonl", ".ndjson")

    def require_readable(self, files: Files, setting: str) -> None:
        """Refuses what asks for the names of columns where no line tells them."""
        super().require_readable(files, setting)
        if not _is_by_line(files) and (files.patterns or files.policies.new_column != "ignore"):
            raise ConfigError(
                f"{setting}.options.multiLine",
                "leaves no lines to look at for the names of columns",
                "Write each object on a line of its own, or name the columns one by one.",
            )
        if files.policies.missing_column == "default":
            raise ConfigError(
                f"{setting}.policies.missing_column",
                "is default: a line of JSON leaves out what is null, so what it lacks is not known",
                "Write null, and coalesce where the column is used.",
            )

    def open(self, spark: SparkSession, files: Files, setting: str, storage: Storage) -> JsonFiles:
        """Finds the JSON files of a source."""
        return JsonFiles(spark, files, self.find(files, setting, storage))


FORMAT = Json()
