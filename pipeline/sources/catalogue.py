"""A table of the session's catalogue as raw data, by its name: Hive's, Glue's, Unity's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import StructType

from pipeline.config import Files
from pipeline.errors import SchemaError, SourceError
from pipeline.expressions import spark_reason
from pipeline.sources.assembly import assembled
from pipeline.sources.matching import Match, match
from pipeline.sources.raw import Found, RawFile, quoted, with_origin
from pipeline.sources.stored import require_castable


@dataclass(frozen=True)
class CatalogueTable:
    """A table that Spark reads from files.

    Args:
        spark: The session that knows it.
        files: The contract, without patterns.
        found: Its files.
    """

    knows_columns: ClassVar = True

    spark: SparkSession
    files: Files
    found: Found

    def columns(self) -> list[str]:
        """Names of its columns."""
        return list(self._schema.names)

    def matches(self) -> list[Match]:
        """Of the table."""
        nested = [each.name for each in self._schema if isinstance(each.dataType, StructType)]
        return [match(self.files, self.columns(), f"table {self.files.table}", nested)]

    def frames(self, spark: SparkSession) -> list[DataFrame]:
        """The rows, in one frame."""
        [matched] = self.matches()
        where = f"table {self.files.table}"
        for name, path in matched.found.items():
            require_castable(self._kind(path[0], where), path, self.files, name, where)
        frame = spark.table(str(self.files.table)).select("*", "_metadata")
        # Rows of other files than Parquet have no index, see text.with_text_origin.
        place = F.col("_metadata.file_block_start") + F.monotonically_increasing_id() % (1 << 33)
        has_index = "row_index" in frame.select("_metadata.*").columns
        position = F.col("_metadata.row_index") if has_index else place
        frame = with_origin(frame, self.found.root, position)
        values = {name: quoted(*path) for name, path in matched.found.items()}
        new = {name: quoted(name) for name in matched.new}
        return [assembled(frame, self.files, values, new)]

    def rows(self) -> int | None:
        """Not known without reading."""
        return None

    def _kind(self, name: str, where: str) -> pa.DataType:
        try:
            return to_arrow_type(self._schema[name].dataType, timezone="UTC")
        except PySparkException as error:
            raise SchemaError(
                f"{where}, column {name}",
                f"has type {self._schema[name].dataType.simpleString()}, which Arrow does not have",
                "Cast it in the table, or leave it out of the contract.",
            ) from error

    @cached_property
    def _schema(self) -> StructType:
        return self.spark.table(str(self.files.table)).schema


def find_table(spark: SparkSession, files: Files, setting: str) -> Found:
    """The files of a table of the catalogue.

    Raises:
        SourceError: The catalogue does not know it, or it is no table of files.
    """
    where = f"{setting}.table, {files.table}"
    try:
        frame = spark.table(str(files.table))
        frame.select("_metadata.file_path").schema  # noqa: B018 (it resolves the column)
        uris = sorted(frame.inputFiles())
    except AnalysisException as error:
        told = spark_reason(error)
        if "_metadata" in told:
            raise SourceError(
                where,
                "is a view, or no table of files, so rows cannot be traced to where they came from",
                "Name a table of Parquet, ORC, CSV or JSON files, or export it.",
            ) from error
        raise SourceError(
            where,
            f"is not in the session's catalogue: {told}",
            "Correct the name, or give Spark its catalogue: docs/sources.md.",
        ) from error
    except PySparkException as error:
        raise SourceError(where, f"cannot be read: {spark_reason(error)}", "Mend it.") from error
    provider = _provider(spark, str(files.table))
    if provider in ("csv", "json", "text"):
        raise SourceError(
            where,
            f"is a table of {provider}, of which Spark makes null what it cannot read",
            "Name its folder as the path, and the format: what does not cast goes to quarantine.",
        )
    root = _common_folder(uris)
    return Found(tuple(_file(spark, uri, root) for uri in uris), root)


def _provider(spark: SparkSession, table: str) -> str:
    described = spark.sql(f"DESCRIBE TABLE EXTENDED {table}")
    rows = described.where("col_name = 'Provider'").select("data_type").head()
    return "" if rows is None else str(rows[0]).lower()


def _common_folder(uris: list[str]) -> str:
    if not uris:
        return ""
    shortest, longest = min(uris), max(uris)
    same = next(
        (
            at
            for at, (one, other) in enumerate(zip(shortest, longest, strict=False))
            if one != other
        ),
        len(shortest),
    )
    return unquote(shortest[:same].rpartition("/")[0])


def _file(spark: SparkSession, uri: str, root: str) -> RawFile:
    split = urlsplit(uri)
    path = unquote(split.path) if split.scheme in ("", "file") else unquote(uri)
    jvm, context = spark._jvm, spark.sparkContext._jsc  # noqa: SLF001
    if jvm is None or context is None:
        raise RuntimeError("no JVM: lakestorm needs a classic Spark session, not Spark Connect")
    place = jvm.org.apache.hadoop.fs.Path(path)
    status = place.getFileSystem(context.hadoopConfiguration()).getFileStatus(place)
    return RawFile(
        path=path,
        name=unquote(uri).removeprefix(root).lstrip("/"),
        bytes=int(status.getLen()),
        modified_ns=int(status.getModificationTime()) * 1_000_000,
        spark_path=path,
    )
