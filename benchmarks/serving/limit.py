"""The limit of `benchmarks/score.py`, on one core: Parquet in, network, Parquet out, no Spark."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scoring.ways import KEY, score_row_groups
from pipeline.lake import Lake
from pipeline.serving.scorer import Scorer
from pipeline.stream import row_groups_of
from pipeline.training.bundle import save_bundle
from pipeline.training.registry import load_registered

ROWS_PER_ROW_GROUP = 65_536


class Limit(AbstractContextManager["Limit"]):
    """Features in a Parquet file, and the model beside it.

    Args:
        scorer: The model that is served.
        lake: Where it is registered.
        features: What the network is given [rows].
    """

    def __init__(self, scorer: Scorer, lake: str, features: pa.Table) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="limit-")
        self._root = Path(self._folder.name)
        bundle, _ = load_registered(Lake(lake), scorer.name, str(scorer.version))
        self._model = self._root / "model"
        self._model.mkdir()
        save_bundle(self._model, bundle.module.state_dict(), bundle.facts, bundle.spec)
        self._columns = features.column_names
        table = features.append_column(KEY, pa.array(np.arange(features.num_rows)))
        file = str(self._root / "features.parquet")
        # As featurize writes its tables.
        pq.write_table(
            table,
            file,
            row_group_size=ROWS_PER_ROW_GROUP,
            use_dictionary=False,
            compression="lz4",
        )
        self._groups = row_groups_of([file])

    def run(self) -> None:
        """Scores all rows into a file."""
        out = str(self._root / "scores.parquet")
        score_row_groups(str(self._model), self._columns, self._groups, out)

    def scores(self) -> pa.ChunkedArray:
        """What `run` wrote [rows]."""
        return pq.read_table(self._root / "scores.parquet", columns=["score"])["score"]

    def scoring(self) -> Callable[[], None]:
        """`run`, once done, so that the model is loaded."""
        self.run()
        return self.run

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
