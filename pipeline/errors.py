"""One tree of errors: each says where the fault is, what was found, and what to do.

    LakestormError
    |-- ConfigError             a setting of the pipeline's YAML
    |-- EnvironmentFault        the machine: no Java, no Spark
    |-- SourceError             raw files: none there, empty, unreadable
    |-- SchemaError             a column that is missing or of another type
    |-- RuleError               a rule that does not parse, or that too many rows fail
    |-- JoinError               a right side that cannot be joined exactly
    |-- CountError              rows in differ from rows out: nothing was committed
    |-- LakeError
    |   |-- TableNotFoundError
    |   |-- LakeNotWritableError
    |   |-- UnsupportedTableError   deletion vectors, column mapping
    |   |-- CommitRefusedError      a file that is missing, changed or misplaced
    |   `-- CommitConflictError     another writer was faster, again and again
    |-- SpecError               a feature spec that cannot be fitted, or another one than asked for
    |   `-- LeakageError        a feature made of what is only known afterwards
    |-- StreamError
    |   |-- PlanError           ranks, shards and batches that do not fit together
    |   |-- RowGroupError       a row group that cannot be read
    |   |-- StoreError          a URI whose store is unknown, or that carries a secret
    |   |-- CacheError          a cache folder that cannot be used
    |   `-- NullValueError      a null in a dense column
    |-- TrainingError
    |   |-- CheckpointError     one that is damaged, cannot be written, or belongs to another run
    |   |-- StoppedError        it was asked to stop, and can go on
    |   `-- WorkerLostError     a worker process died, hangs, or lost the others
    |-- RowError                a row given to a model that lacks a field, or has a wrong value
    |-- ModelError              a model that is not registered or does not fit the data
    |-- ScoringError
    |   `-- DriftError          rows unlike those of the training: nothing was published
    `-- ScheduleError           a service that cannot start, or a run that failed

Errors of Spark, Petastorm, Arrow and delta-rs are translated where they enter, by `raise ... from`.
"""

from __future__ import annotations


class LakestormError(Exception):
    """A fault that its user can mend.

    Args:
        where: The file, table, column or setting at fault, named as the user knows it.
        problem: What is wrong, with the value found and, where there is one, the row count.
        remedy: What to do about it, as a sentence.
    """

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(where, problem, remedy)
        self.where = where
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.problem.rstrip('.')}. {self.remedy}"


def one_line(told: object) -> str:
    """A text, or what an error says, as one line: nothing in it breaks it or moves a cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(told)).split())


class ConfigError(LakestormError):
    """A setting that is unknown, of the wrong type, or impossible beside another one."""


class EnvironmentFault(LakestormError):
    """The machine lacks something that no setting can give."""


class SourceError(LakestormError):
    """Raw files that are missing, empty or unreadable."""


class SchemaError(LakestormError):
    """A column that is missing or of another type than agreed."""


class RuleError(LakestormError):
    """A rule that cannot be parsed or resolved, or that more rows fail than its action allows."""


class JoinError(LakestormError):
    """A right side of a join whose key is not unique, so that rows would double."""


class CountError(LakestormError):
    """Rows in differ from rows out; the stage stopped before it committed anything."""


class LakeError(LakestormError):
    """A fault of the lake or of one of its tables."""


class TableNotFoundError(LakeError):
    """A table, or a version of one, that is not in the lake."""


class LakeNotWritableError(LakeError):
    """The lake's folder cannot be written."""


class UnsupportedTableError(LakeError):
    """A table with features under which a plain Parquet read would be wrong."""


class CommitRefusedError(LakeError):
    """Files that must not be committed: missing, changed, or outside the partitions replaced."""


class CommitConflictError(LakeError):
    """Other writers committed first, more often than a commit is planned anew."""


class SpecError(LakestormError):
    """A feature spec that cannot be fitted, read, or is not the one asked for."""


class LeakageError(SpecError):
    """A feature made of a column that is only known after the moment of prediction."""


class StreamError(LakestormError):
    """A fault on the way from row groups to batches."""


class PlanError(StreamError):
    """Ranks, canonical shards and batches that do not fit together."""


class RowGroupError(StreamError):
    """A row group that cannot be read; names the file and the row group."""


class StoreError(StreamError):
    """A URI that no file system answers to, or that carries a secret."""


class CacheError(StreamError):
    """A folder that cannot hold the cache of decoded row groups."""


class NullValueError(StreamError):
    """A null in a dense column; names the file and the column."""


class TrainingError(LakestormError):
    """Training that cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint that is damaged or belongs to another run."""


class StoppedError(TrainingError):
    """A training that was asked to stop; its checkpoint is written."""


class WorkerLostError(TrainingError):
    """A worker process that died or made no progress, or that lost the others; worth a restart."""


class RowError(LakestormError):
    """A row given to a model that lacks a field, or has a value that the field cannot hold."""


class ModelError(LakestormError):
    """A model that is not registered, or does not fit the data it is given."""


class ScoringError(LakestormError):
    """A scoring task that failed."""


class DriftError(ScoringError):
    """Rows so unlike those of the training that the pipeline's thresholds forbid to publish."""


class ScheduleError(LakestormError):
    """A service that runs already or whose port is taken, or a run that failed for good."""
