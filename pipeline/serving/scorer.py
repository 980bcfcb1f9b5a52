"""A registered model as a function: rows of `clean` in, what `predictions` holds out."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from pipeline.errors import SpecError
from pipeline.features.kinds import register
from pipeline.features.local import LocalTransform
from pipeline.features.vocabularies import load
from pipeline.lake import Lake
from pipeline.scoring.task import predict, prediction_arrays
from pipeline.serving.inputs import NetworkInputs
from pipeline.serving.rows import Rows, to_arrow
from pipeline.training.bundle import Bundle, load_bundle
from pipeline.training.networks import folded
from pipeline.training.registry import load_registered

_KEPT_BYTES = 31 << 20


class Scorer:
    """Scores rows in this process; safe to be called from several threads, one at a time.

    Args:
        bundle: The model.
        name: It is registered as.
        version: Of the registered model; 0 where nothing says.
        words: Vocabularies that are stored in the lake, if the model's spec has some.

    Raises:
        SpecError: Only Spark can make the model's features.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        version: int,
        words: Mapping[str, pa.Table] | None = None,
    ) -> None:
        if bundle.local is None:
            raise SpecError(
                f"model {name}@{version}",
                "was saved without how its features are made outside of Spark",
                "Train it again with this version of lakestorm, or score with `lakestorm score`.",
            )
        self.name = name
        self.version = version
        self.bundle = replace(bundle, module=folded(bundle.module))
        self._inputs = NetworkInputs(bundle.spec)
        self._transform = LocalTransform(bundle.spec, bundle.local, words)
        self._alone = threading.Lock()
        _keep_freed_memory()

    @classmethod
    def load(
        cls,
        model: str,
        lake: str | Lake | None = None,
        *,
        custom: str | None = None,
        kinds: str | None = None,
    ) -> Scorer:
        """Loads a registered model.

        Args:
            model: `NAME@ALIAS` or `NAME@VERSION`, such as `flights@champion`.
            lake: Folder or URI of the lake; `LAKESTORM_LAKE`, or `lake`, by default.
            custom: The user's own network, `package.module:Class`, if it is one.
            kinds: The module of the user's own kinds of features, if it has some.

        Raises:
            ModelError: There is none such (the error lists what there is), or it is damaged.
            SpecError: Only Spark can make its features.
        """
        register(kinds)
        name, _, reference = model.rpartition("@")
        where = lake or os.environ.get("LAKESTORM_LAKE", "lake")
        opened = where if isinstance(where, Lake) else Lake(where)
        bundle, version = load_registered(
            opened, name or reference, reference if name else "champion", custom
        )
        return cls(bundle, name or reference, version, load(opened, bundle.spec))

    @classmethod
    def from_folder(cls, folder: Path, name: str = "model", version: int = 0) -> Scorer:
        """Loads the files of a model.

        Raises:
            ModelError: A file is missing or damaged.
            SpecError: Only Spark can make its features.
        """
        return cls(load_bundle(folder), name, version)

    @property
    def given(self) -> pa.Schema:
        """Columns of `clean` that rows must have, with their types."""
        return self._transform.given

    def score(self, rows: Rows) -> Rows:
        """Scores rows.

        Args:
            rows: A dict, a list of dicts, or a frame of pandas, Polars or Arrow, with the columns
                `given`; further columns are left alone, and those of `features.keys` come back.

        Returns:
            In the same form: the keys that were given, what the model says (`score`, for some
            tasks `class` and `probabilities`, or `latent`), `model_name`, `model_version`,
            `spec_hash` and `scored_at`.

        Raises:
            RowError: A field is missing or has a value that its type does not hold.
        """
        table, back = to_arrow(rows, self.given, self.bundle.spec.keys)
        return back(self.score_table(table))

    def score_table(self, rows: pa.Table) -> pa.Table:
        """Scores an Arrow table: see `score`."""
        return self.scored(rows, self.features(rows))

    def scored(self, rows: pa.Table, features: pa.Table) -> pa.Table:
        """What the model says of rows whose features are made, beside their keys."""
        said = self.predictions(features, rows.num_rows)
        keys = [key for key in self.bundle.spec.keys if key in rows.column_names]
        columns: dict[str, pa.Array] = {key: rows[key] for key in keys}
        columns |= prediction_arrays(self.bundle, said)
        for constant, value in self._constants().items():
            columns[constant] = pa.repeat(value, rows.num_rows)
        return pa.table(columns)

    def features(self, rows: pa.Table) -> pa.Table:
        """The features of rows, as the lake's table has them: to compare what serving makes."""
        with self._alone:
            return self._transform.features(rows)

    def predictions(self, features: pa.Table, rows: int) -> Mapping[str, Tensor]:
        """What the model says of features."""
        return predict(self.bundle, self._inputs.of(features), rows)

    def _constants(self) -> dict[str, pa.Scalar]:
        return {
            "model_name": pa.scalar(self.name),
            "model_version": pa.scalar(self.version, pa.int64()),
            "spec_hash": pa.scalar(self.bundle.facts.spec_hash),
            "scored_at": pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")),
        }


def _keep_freed_memory() -> None:
    """Lets the C library keep what arrays of up to 31 MiB leave, instead of giving it back at once.

    Each column that is made of many rows is an array of a megabyte or two, and Linux clears all its
    pages anew. glibc learns from the largest piece that was freed what is worth keeping; elsewhere
    this does nothing. Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    np.empty(_KEPT_BYTES, np.uint8)
