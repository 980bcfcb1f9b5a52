"""Whether a service made the features, and the scores, that the lake has: by key.

The log of a service (`log.py`) is held in memory, a row group of the lake at a time beside it. Each
feature may lie as far apart as its kind states (`Fitted.ulps`), as in `pipeline/features/proof.py`;
scores may differ by what sums in another order make.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Pipeline
from pipeline.errors import ModelError, SourceError, TableNotFoundError
from pipeline.features.agreement import greatest_difference, unlike_rows
from pipeline.features.prepared import SPLIT, TRAIN
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake, Snapshot
from pipeline.scoring.task import prediction_columns
from pipeline.serving.log import WITHHELD, log_files, sensitive_features
from pipeline.training.bundle import Bundle
from pipeline.training.job import custom_class
from pipeline.training.registry import load_registered

SCORE_RELATIVE, SCORE_ABSOLUTE = 1e-5, 1e-6
"""How far scores may lie apart: batches of other sizes sum in another order."""
EXAMPLES = 1
_AT, _THERE = "_at", "_there"

_Places = npt.NDArray[np.int64]


@dataclass
class Compared:
    """One column, in the rows that both sides have."""

    column: str
    tolerance: str
    rows: int = 0
    differ: int = 0
    """Rows that lie further apart than the tolerance."""
    greatest: float | None = None
    """Greatest difference of numbers in any row; None for other types, or where one has none."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Keys of rows that differ, with both values."""


@dataclass
class Skew:
    """How a model's log compares with the lake."""

    model: str
    spec_hash: str
    table: str
    version: int
    """Of the table of features that was compared with."""
    trained_version: int
    logged: int
    """Rows of the log."""
    matched: int = 0
    """Of these, rows whose key the lake has."""
    lake_rows: int = 0
    not_logged: int = 0
    """Rows of the lake that the log has not."""
    scores_matched: int = 0
    features: list[Compared] = field(default_factory=list)
    scores: list[Compared] = field(default_factory=list)
    withheld: tuple[str, ...] = ()
    """Features that the log leaves out: they are made of sensitive columns."""

    @property
    def verdict(self) -> str:
        """`same`, `differ`, or `nothing to compare`."""
        if not self.matched:
            return "nothing to compare"
        differ = any(each.differ for each in (*self.features, *self.scores))
        return "differ" if differ else "same"


def compare(folder: Path, lake: Lake, pipeline: Pipeline, examples: int = EXAMPLES) -> list[Skew]:
    """Compares a log with the lake, for each model that it is of.

    Args:
        folder: The log's.
        lake: Has the models, the features and the predictions.
        pipeline: Names the user's own network, and what is sensitive.
        examples: How many rows that differ are told of each column.

    Raises:
        SourceError: The log is not there, is empty, or has a damaged file.
        ModelError: A model that was served is not registered, or is another one by now.
        TableNotFoundError: The lake has no features of its spec.
    """
    found = []
    for (name, version, spec_hash), files in itertools.groupby(
        sorted(_described(folder), key=lambda each: each[0]), key=lambda each: each[0]
    ):
        bundle, _ = load_registered(lake, name, str(version), custom_class(pipeline))
        if bundle.facts.spec_hash != spec_hash:
            raise ModelError(
                f"model {name}@{version}",
                f"has the spec {bundle.facts.spec_hash}, and was served with {spec_hash}",
                f"The registry was made anew: remove the older files from {folder}.",
            )
        log = pa.concat_tables(
            (_read(file) for _, file in files), promote_options="default"
        ).combine_chunks()
        found.append(
            _compared(log, f"{name}@{version}", bundle, lake, pipeline=pipeline, examples=examples)
        )
    return found


def _described(folder: Path) -> Iterator[tuple[tuple[str, int, str], Path]]:
    """The model of each file: all rows of a file are of one."""
    files = log_files(folder) if folder.is_dir() else []
    if not files:
        raise SourceError(
            f"--log {folder}",
            "holds no file of a service",
            "Name the folder that `lakestorm serve --log` writes; it writes after some seconds.",
        )
    for file in files:
        names = ["model_name", "model_version", "spec_hash"]
        first = _read(file, names).slice(0, 1).to_pylist()
        for row in first:
            yield (row["model_name"], row["model_version"], row["spec_hash"]), file


def _read(file: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise SourceError(
            f"file {file}",
            f"is no file of a service's log: {' '.join(str(error).split())[:200]}",
            "Remove it.",
        ) from error


def _compared(
    log: pa.Table, model: str, bundle: Bundle, lake: Lake, *, pipeline: Pipeline, examples: int
) -> Skew:
    spec = bundle.spec
    features = lake.table(spec.table).snapshot()
    types = pa.schema([features.schema.field(key) for key in spec.keys])
    keys = pa.Table.from_struct_array(log["keys"]).select(types.names).cast(types)
    withheld = (log.schema.metadata or {}).get(WITHHELD, b"").decode()
    skew = Skew(
        model=model,
        spec_hash=spec.hash,
        table=spec.table,
        version=features.version,
        trained_version=bundle.facts.features_version,
        logged=log.num_rows,
        lake_rows=features.rows,
        withheld=tuple(withheld.split(",")) if withheld else (),
    )
    shown = [] if any(map(pipeline.is_sensitive_feature, spec.keys)) else list(spec.keys)
    examples = examples if shown else 0
    hidden = set(sensitive_features(spec, pipeline))  # some were not when the service started
    pairs = _Pairs(keys, examples)
    skew.features = _compare_features(pairs, log, features, spec, hidden)
    skew.matched = int(pairs.found.sum())
    skew.not_logged = features.rows - pairs.lake_found
    _compare_scores(skew, log, bundle, lake, _Pairs(keys, examples))
    return skew


def _compare_features(
    pairs: _Pairs, log: pa.Table, features: Snapshot, spec: FeatureSpec, hidden: Collection[str]
) -> list[Compared]:
    made = _fields(log, "features")
    parts = {name: spec.parts_by_column[name] for name in spec.feature_columns if name in made}
    columns = {name: Compared(name, _units(part.ulps)) for name, part in parts.items()}
    for there, at, split in pairs.of(features, list(columns)):
        for name, part in parts.items():
            # What is out of fold in the train split is another value to rows that are served.
            if split == TRAIN and part.needs_folds:
                continue
            one, other = made[name].take(at).cast(there.schema.field(name).type), there[name]
            unlike = unlike_rows(one, other, part.ulps)
            pairs.count(columns[name], one, other, unlike, at, shown=name not in hidden)
    return list(columns.values())


def _compare_scores(skew: Skew, log: pa.Table, bundle: Bundle, lake: Lake, pairs: _Pairs) -> None:
    """Compares with what the same version of the model said in the lake, if it said something."""
    name, _, version = skew.model.rpartition("@")
    try:
        stored = lake.table("predictions").snapshot()
    except TableNotFoundError:
        return
    said = _fields(log, "said")
    tolerance = f"{SCORE_ABSOLUTE:g} + {SCORE_RELATIVE:g} of it"
    columns = {
        column: Compared(column, "0" if pa.types.is_string(kind) else tolerance)
        for column, kind in prediction_columns(bundle.facts.task).items()
    }
    own = stored.select(model_name={name}, model_version={version})
    for there, at, _ in pairs.of(own, list(columns)):
        for column, compared in columns.items():
            one, other = said[column].take(at), there[column]
            pairs.count(compared, one, other, _unlike_scores(one, other), at)
    skew.scores, skew.scores_matched = list(columns.values()), int(pairs.found.sum())


def _fields(log: pa.Table, name: str) -> dict[str, pa.ChunkedArray]:
    """The fields of a struct of the log, by name."""
    if name not in log.column_names:
        return {}
    table = pa.Table.from_struct_array(log[name])
    return dict(zip(table.column_names, table.columns, strict=True))


def _units(ulps: int) -> str:
    return f"{ulps} ulp" if ulps else "0"


def _unlike_scores(one: pa.ChunkedArray, other: pa.ChunkedArray) -> _Places:
    """Rows whose scores lie further apart than sums in another order do."""
    unlike: _Places = unlike_rows(one, other)
    if pa.types.is_string(one.type):
        return unlike
    is_far: list[bool] = [
        not _is_close(one[int(row)].as_py(), other[int(row)].as_py()) for row in unlike
    ]
    found: _Places = unlike[np.array(is_far, bool)]
    return found


def _is_close(one: Any, other: Any) -> bool:
    left, right = np.array(one, np.float64), np.array(other, np.float64)
    return left.shape == right.shape and np.allclose(
        left, right, rtol=SCORE_RELATIVE, atol=SCORE_ABSOLUTE, equal_nan=True
    )


class _Pairs:
    """Rows of the log and the rows of a table with the same key; each of several is one.

    Args:
        keys: Of the log [rows].
        examples: How many rows that differ are told of a column.
    """

    def __init__(self, keys: pa.Table, examples: int) -> None:
        self._keys = keys
        self._numbered = keys.append_column(_AT, pa.array(np.arange(len(keys))))
        self._examples = examples
        self.found = np.zeros(len(keys), bool)
        """Which rows of the log the table has [rows]."""
        self.lake_found = 0
        """Rows of the table that the log has."""

    def of(
        self, table: Snapshot, columns: list[str]
    ) -> Iterator[tuple[pa.Table, _Places, str | None]]:
        """Pieces of the table: its rows, the place of each in the log, and the split."""
        names = self._keys.column_names
        for file in table.files:
            with table.folder.open(file.path) as opened:
                parquet = pq.ParquetFile(opened)
                for group in range(parquet.num_row_groups):
                    keys = parquet.read_row_group(group, columns=names).select(names)
                    both = self._both(keys.cast(self._keys.schema))
                    if not both.num_rows:
                        continue
                    at, place = both[_AT].to_numpy(), both[_THERE].to_numpy()
                    self.found[at] = True
                    self.lake_found += len(np.unique(place))
                    rows = parquet.read_row_group(group, columns=columns).take(place)
                    yield rows, at, file.partition.get(SPLIT)

    def count(
        self,
        compared: Compared,
        one: pa.ChunkedArray,
        other: pa.ChunkedArray,
        unlike: _Places,
        at: _Places,
        *,
        shown: bool = True,
    ) -> None:
        """Adds a column of a piece to what was compared of it."""
        compared.rows += len(one)
        compared.differ += len(unlike)
        far = [compared.greatest, greatest_difference(one, other)]
        compared.greatest = max((each for each in far if each is not None), default=None)
        room = self._examples - len(compared.examples) if shown else 0
        for row in map(int, unlike[:room]):
            [key] = self._keys.slice(int(at[row]), 1).to_pylist()
            told = {"key": key, "served": one[row].as_py(), "lake": other[row].as_py()}
            compared.examples.append(told)

    def _both(self, there: pa.Table) -> pa.Table:
        numbered = there.append_column(_THERE, pa.array(np.arange(len(there))))
        joined = numbered.join(self._numbered, self._keys.column_names, join_type="inner")
        return joined.select([_AT, _THERE]).sort_by(_AT)
