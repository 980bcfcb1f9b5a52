"""What a run of `clean` reads: the subject and the right sides, their contracts written out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pyspark.sql import SparkSession

from pipeline.clean.table_rules import own_files
from pipeline.config import OTHER_COLUMNS, ROW_ID, Files, Pipeline
from pipeline.config.formats import LAID_OUT
from pipeline.errors import ConfigError, SchemaError
from pipeline.lake import Lake, fingerprint
from pipeline.sources import nycflights13
from pipeline.sources.format import Rows
from pipeline.sources.formats import format_of, layout_named, open_rows
from pipeline.sources.matching import expanded
from pipeline.sources.raw import Found

_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Inputs:
    """Raw rows of the subject and of each right side, as found."""

    pipeline: Pipeline
    """The description, with the contract's patterns written out."""
    subject: Rows
    rights: dict[str, Rows]
    notes: tuple[str, ...]
    """What the policies for columns did, and what patterns matched, a line each."""

    @classmethod
    def of(cls, spark: SparkSession, pipeline: Pipeline) -> Inputs:
        """What there is; raises as `open_rows` and `Rows.matches` do."""
        _require_positions(pipeline)
        subject = open_rows(
            spark, pipeline.source, "source", pipeline.storage, reserved=names_of_ours(pipeline)
        )
        rights = right_sides(spark, pipeline)
        notes = [*_patterns_matched(pipeline.source, subject.files), *_policies_applied(subject)]
        return cls(_with_contracts(pipeline, subject, rights), subject, rights, tuple(notes))

    def only(self, found: Found) -> Inputs:
        """The same with fewer files of the subject."""
        return replace(self, subject=replace(self.subject, found=found))  # type: ignore[type-var]

    def fingerprint(self, pipeline: Pipeline) -> str:
        """What the three tables depend on.

        Args:
            pipeline: The description as it was given.
        """

        def identity(rows: Rows) -> list[list[str | int]]:
            found = rows.found
            listed: list[list[str | int]] = [
                [file.name, file.bytes, file.modified_ns] for file in found.files
            ]
            return [*listed, [found.state]] if found.state else listed

        return fingerprint(
            subject=identity(self.subject),
            rights={name: identity(rows) for name, rows in self.rights.items()},
            contract=pipeline.source.model_dump(mode="json", exclude={"path"}),
            settings=pipeline.clean.model_dump(mode="json"),
        )


def right_sides(spark: SparkSession, pipeline: Pipeline) -> dict[str, Rows]:
    """The raw rows that joins and rules about the table compare with; raises as `open_rows`.

    Returns:
        By the join's name, or by `own_files` of the rule.
    """
    sides: dict[str, tuple[Files, str]] = {
        name: (join, f"clean.joins.{name}") for name, join in pipeline.clean.joins.items()
    }
    for name, rule in pipeline.clean.table_rules.items():
        if rule.reference is not None and rule.reference.join is None:
            place = f"clean.table_rules.{name}.reference"
            sides[own_files(name)] = (rule.reference, place)
    return {
        name: open_rows(spark, files, place, pipeline.storage)
        for name, (files, place) in sides.items()
    }


def laid_out(pipeline: Pipeline, lake: Lake) -> Pipeline:
    """The pipeline with a source that Spark can read, which may have to be written first."""
    source = pipeline.source
    if source.sample == "nycflights13":
        nycflights13.lay_out(Path(source.path[0]))
    if source.format not in LAID_OUT:
        return pipeline
    target = lake.work("raw", pipeline.name)
    folder = layout_named(source.format).lay_out(Path(source.path[0]), target)
    parquet = source.model_copy(update={"path": (str(folder),), "format": "parquet"})
    return pipeline.model_copy(update={"source": parquet})


def names_of_ours(pipeline: Pipeline) -> set[str]:
    """Columns of `clean`, or made of it, that no pattern of the contract may stand for."""
    joined = {name for join in pipeline.clean.joins.values() for name in join.select}
    added = {pipeline.clean.period.column, ROW_ID, OTHER_COLUMNS}
    return added | joined | set(pipeline.features.derive)


def with_contract_of(pipeline: Pipeline, columns: Iterable[str]) -> Pipeline:
    """The pipeline with its patterns written out by columns that a table has already."""
    if not pipeline.source.patterns:
        return pipeline
    source = expanded(pipeline.source, columns, "source", names_of_ours(pipeline))
    return pipeline.model_copy(update={"source": source})


def _require_positions(pipeline: Pipeline) -> None:
    """Refuses row ids by position where files are rewritten behind our back."""
    source = pipeline.source
    is_table = source.table is not None or format_of(source, pipeline.storage).by_log
    if pipeline.clean.row_id == "position" and is_table:
        raise ConfigError(
            "clean.row_id",
            "position names no row of a table for long: a compaction moves rows to other files",
            "Set clean.row_id: content, or name the columns that are a row's key.",
        )


def _with_contracts(pipeline: Pipeline, subject: Rows, rights: dict[str, Rows]) -> Pipeline:
    source = pipeline.source.model_copy(update={"columns": subject.files.columns})
    joins = {
        name: join.model_copy(update={"columns": rights[name].files.columns})
        for name, join in pipeline.clean.joins.items()
    }
    clean = pipeline.clean.model_copy(update={"joins": joins})
    return pipeline.model_copy(update={"source": source, "clean": clean})


def _patterns_matched(given: Files, written_out: Files) -> list[str]:
    notes = []
    for pattern in given.patterns:
        matched = [
            n
            for n, c in written_out.columns.items()
            if given.column_of(n) is c and n not in given.columns
        ]
        matched = [name for name in matched if _first_pattern(given, name) == pattern]
        notes.append(f"source.columns.{pattern}: {_listed(matched)}")
    return notes


def _first_pattern(given: Files, name: str) -> str | None:
    column = given.column_of(name)
    return next((each for each in given.patterns if given.columns[each] is column), None)


def _policies_applied(subject: Rows) -> list[str]:
    """Names the columns that were left out, kept or filled.

    Raises:
        SchemaError: No file has a column of the contract.
    """
    matches = subject.matches()
    policies = subject.files.policies
    new = list(dict.fromkeys(name for each in matches for name in each.new))
    missing = list(dict.fromkeys(name for each in matches for name in each.missing))
    for name in missing:
        if subject.knows_columns and all(name in each.missing for each in matches):
            raise SchemaError(
                f"source.columns.{name}",
                f"is in none of {len(matches)} files",
                "Correct the name, name the column's other names by `from`, or take it out.",
            )
    notes = []
    if new:
        done = "kept in other_columns" if policies.new_column == "keep" else "ignored"
        notes.append(f"columns that the contract does not name, {done}: {_listed(new)}")
    for name in missing:
        lacking = sum(name in each.missing for each in matches)
        filled = "its default" if policies.missing_column == "default" else "null"
        notes.append(f"column {name}: {filled} in {lacking} of {len(matches)} files that lack it")
    return notes


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = f", ... ({len(names)} in all)" if len(names) > _NAMES_SHOWN else ""
    return f"{shown}{more}"
