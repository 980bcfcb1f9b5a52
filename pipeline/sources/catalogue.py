"""A table of the session's catalogue as raw data, by its name: Hive's, Glue's, Unity's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from pipeline.config import Files
from pipeline.errors import SourceError
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
        kinds = to_arrow_schema(self._schema, timezone="UTC")
        for name, path in matched.found.items():
            require_castable(
                kinds.field(path[0]).type, path, self.files, name, f"table {self.files.table}"
            )
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
    root = _common_folder(uris)
    return Found(tuple(_file(uri, root) for uri in uris), root)


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


def _file(uri: str, root: str) -> RawFile:
    split = urlsplit(uri)
    path = unquote(split.path) if split.scheme in ("", "file") else uri
    state = Path(path).stat() if split.scheme in ("", "file") else None
    return RawFile(
        path=path,
        name=unquote(uri).removeprefix(root).lstrip("/"),
        bytes=state.st_size if state else 0,
        modified_ns=state.st_mtime_ns if state else 0,
        spark_path=path,
    )
