"""What a service made, in Parquet files: to be compared with the lake by key, see `skew.py`.

A file is written under a hidden name and renamed, so that a reader sees whole files only. Requests
wait for none of this: they leave their rows in memory, and a thread writes them. Where it falls
behind, or the disk is full, rows are dropped and counted; no request fails for it.

    keys        struct, in the types of the lake
    features    struct, as the table `features` has them, without those of sensitive columns
    said        struct: what the model said, such as `score`
    model_name, model_version, spec_hash, scored_at
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Pipeline
from pipeline.config.histories import history_texts
from pipeline.errors import EnvironmentFault, ModelError, RowError
from pipeline.features.spec import FeatureSpec
from pipeline.lake import Lake
from pipeline.serving.scorer import Scorer
from pipeline.serving.wire import from_json

log = logging.getLogger(__name__)

CONSTANTS = ("model_name", "model_version", "spec_hash", "scored_at")
WITHHELD = b"lakestorm.withheld"
"""Key of a file's metadata: the features that are not logged, by name, with commas between."""
_NAME = re.compile(r"\d{8}T\d{12}-[0-9a-f]{32}\.parquet")
_DRAFT = re.compile(r"\.\d{8}T\d{12}-[0-9a-f]{32}\.parquet\.tmp")
_OLD_DRAFT_SECONDS = 3600
_FAILURE_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class LogLimits:
    """How much a log holds, and when it writes."""

    bytes_on_disk: int = 1 << 30
    """Of all files of the folder; the oldest are removed to make room."""
    bytes_in_memory: int = 64 << 20
    """That wait to be written; rows that come on top are dropped."""
    rows_per_file: int = 50_000
    bytes_per_file: int = 32 << 20
    seconds: float = 10.0
    """After which rows are written, however few they are."""


class ServiceLog:
    """Writes what a service made.

    Args:
        folder: Where the files go; made where it is missing, for its owner only.
        keys: Names and types of the keys, as the lake's table of features has them.
        withheld: Columns of features that are not logged.
        limits: How much is held.

    Raises:
        EnvironmentFault: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        keys: pa.Schema,
        withheld: Iterable[str] = (),
        limits: LogLimits | None = None,
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._withheld = sorted(withheld)
        self._limits = limits or LogLimits()
        self._waiting: list[tuple[pa.Table, pa.Table]] = []
        self._bytes = self._rows = 0
        self._first_at = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._warned_at = -_FAILURE_PAUSE_SECONDS
        self.counts = {"written": 0, "dropped": 0, "without_key": 0}
        """Rows by what became of them."""
        _require_writable(folder)
        self._thread = threading.Thread(target=self._run, name="service log", daemon=True)
        self._thread.start()

    @classmethod
    def of(
        cls,
        folder: Path,
        scorer: Scorer,
        lake: Lake,
        pipeline: Pipeline,
        limits: LogLimits | None = None,
    ) -> ServiceLog:
        """The log of a model that is served.

        Raises:
            ModelError: A key is sensitive, or the model is of another pipeline.
            TableNotFoundError: The table of features that the model was trained on is gone.
            EnvironmentFault: The folder cannot be written.
        """
        spec = scorer.bundle.spec
        if spec.pipeline != pipeline.name:
            raise ModelError(
                f"model {scorer.name}@{scorer.version}",
                f"is of the pipeline {spec.pipeline}, not {pipeline.name}",
                "Name its own YAML with --lake: it says which columns are sensitive.",
            )
        hidden = [key for key in spec.keys if pipeline.is_sensitive_feature(key)]
        if hidden:
            raise ModelError(
                f"key {hidden[0]}",
                "is sensitive, and a log would hold its values",
                "Serve without --log.",
            )
        schema = lake.table(spec.table).snapshot().schema
        keys = pa.schema([schema.field(key) for key in spec.keys])
        return cls(folder, keys, sensitive_features(spec, pipeline), limits)

    def add(self, keys: pa.Table, features: pa.Table, said: pa.Table) -> None:
        """Takes rows that were scored; never waits and never raises.

        Args:
            keys: What was given of the keys [rows].
            features: The features [rows].
            said: What the model said, with the constants [rows].
        """
        made = said.select(CONSTANTS).append_column(
            "said", said.drop_columns([*CONSTANTS]).to_struct_array()
        )
        shown = features.drop_columns(self._withheld)
        if shown.num_columns:  # Parquet has no struct without fields
            made = made.append_column("features", shown.to_struct_array())
        size = made.nbytes + keys.nbytes
        with self._changed:
            if set(self._keys.names) - set(keys.column_names):
                self._count("without_key", made.num_rows)
            elif self._closed or self._bytes + size > self._limits.bytes_in_memory:
                self._count("dropped", made.num_rows)
            else:
                self._first_at = self._first_at if self._waiting else time.monotonic()
                self._waiting.append((keys.select(self._keys.names), made))
                self._bytes += size
                self._rows += made.num_rows
                self._changed.notify()

    def close(self) -> None:
        """Writes what waits, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_due():
                    self._changed.wait(self._remaining_seconds())
                waiting, self._waiting = self._waiting, []
                self._bytes = self._rows = 0
                closed = self._closed
            self._write(waiting)
            if closed:
                return

    def _is_due(self) -> bool:
        if self._closed:
            return True
        full = (
            self._rows >= self._limits.rows_per_file or self._bytes >= self._limits.bytes_per_file
        )
        return bool(self._waiting) and (full or (self._remaining_seconds() or 0) <= 0)

    def _remaining_seconds(self) -> float | None:
        """Until what waits is written; None where nothing waits."""
        if not self._waiting:
            return None
        return max(0.0, self._first_at + self._limits.seconds - time.monotonic())

    def _write(self, waiting: list[tuple[pa.Table, pa.Table]]) -> None:
        rows = sum(made.num_rows for _, made in waiting)
        try:
            parts = [_keyed(keys, made, self._keys) for keys, made in waiting]
            kept = sum(part.num_rows for part in parts)
            if kept:
                self._store(pa.concat_tables(parts))
            self._count("written", kept)
            self._count("without_key", rows - kept)
        # A log is beside the point of a service: whatever is wrong with it must not end its thread.
        except Exception as error:  # noqa: BLE001
            self._count("dropped", rows)
            self._warn(error)

    def _count(self, what: str, rows: int) -> None:
        with self._changed:
            self.counts[what] += rows

    def _store(self, table: pa.Table) -> None:
        """Writes a file, and makes room for it first."""
        table = table.replace_schema_metadata({WITHHELD: ",".join(self._withheld).encode()})
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex}.parquet"
        draft = self._folder / f".{name}.tmp"
        try:
            pq.write_table(table, draft, compression="zstd")
            self._make_room(draft.stat().st_size)
            draft.replace(self._folder / name)
        finally:
            draft.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        files = log_files(self._folder)
        sizes = {}
        for file in files:
            with suppress(FileNotFoundError):  # of another service that makes room
                sizes[file] = file.stat().st_size
        over = sum(sizes.values()) + size - self._limits.bytes_on_disk
        for file in files:
            if over <= 0:
                break
            file.unlink(missing_ok=True)
            over -= sizes.get(file, 0)
        for file in self._folder.iterdir():
            with suppress(FileNotFoundError):
                age = time.time() - file.stat().st_mtime
                if _DRAFT.fullmatch(file.name) and age > _OLD_DRAFT_SECONDS:
                    file.unlink()

    def _warn(self, error: Exception) -> None:
        if time.monotonic() - self._warned_at >= _FAILURE_PAUSE_SECONDS:
            self._warned_at = time.monotonic()
            told = error.strerror if isinstance(error, OSError) and error.strerror else error
            log.warning("%s cannot be written, rows are dropped: %s", self._folder, told)


def log_files(folder: Path) -> list[Path]:
    """The finished files of a log, the oldest first."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def sensitive_features(spec: FeatureSpec, pipeline: Pipeline) -> list[str]:
    """Columns of features that are made of a sensitive column, directly or through others."""
    made = {**history_texts(spec.histories), **spec.derive}

    def is_sensitive(name: str) -> bool:
        return pipeline.is_sensitive_feature(name) or pipeline.is_sensitive_feature(name, made)

    return [
        name
        for name, part in spec.parts_by_column.items()
        if any(is_sensitive(column) for column in part.reads)
    ]


def _keyed(keys: pa.Table, made: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows with their keys in the types of the lake; without those whose keys are none of these."""
    try:
        arrays = [_cast(keys[field.name], field) for field in schema]
        struct = pa.Table.from_arrays(arrays, schema=schema).to_struct_array()
        return made.add_column(0, "keys", struct)
    except (pa.ArrowException, RowError, TypeError, ValueError, OverflowError):
        if made.num_rows <= 1:
            return made.slice(0, 0).add_column(0, "keys", pa.array([], pa.struct(list(schema))))
    # One key of several rows is wrong.
    half = made.num_rows // 2
    return pa.concat_tables(
        _keyed(keys.slice(*cut), made.slice(*cut), schema) for cut in ((0, half), (half,))
    )


def _cast(values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if not is_text or pa.types.is_string(field.type):
        return values.cast(field.type)
    rows: list[Mapping[str, Any]] = [{field.name: value} for value in values.to_pylist()]
    read = [row[field.name] for row in from_json(rows, pa.schema([field]))]
    return pa.chunked_array([pa.array(read, field.type)])


def _require_writable(folder: Path) -> None:
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        probe.unlink()
    except OSError as error:
        raise EnvironmentFault(
            f"--log {folder}",
            f"cannot be written: {error.strerror or error}",
            "Name a folder that can be written.",
        ) from error
