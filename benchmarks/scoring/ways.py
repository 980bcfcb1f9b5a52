"""The ways to score a table, each to Parquet of its own: keys and scores.

All give the same network the same tensors, one thread a core. `ours` is the stage as users run it,
with its commit; the others are what they would write instead; and the limit is the same reading,
network and writing in plain processes, without Spark.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import FloatType

from pipeline.config import Pipeline
from pipeline.lake import Lake
from pipeline.scoring.models import scorers
from pipeline.scoring.stage import score
from pipeline.scoring.task import predict
from pipeline.stream import RowGroup, row_groups_of
from pipeline.training.bundle import load_bundle, save_bundle
from pipeline.training.splits import layout_of

BATCH_ROWS = 10_000
"""Rows that the peers give the network at once; Spark hands Python batches of as many."""

KEY = "id"
_TASKS_PER_CORE = 4

_Column = npt.NDArray[Any]
_Score = Callable[[Mapping[str, _Column]], npt.NDArray[np.float32]]


class Way:
    """Scores all rows of the features into a folder, again and again."""

    def __init__(self, spark: SparkSession, pipeline: Pipeline, cores: int) -> None:
        self.spark, self.pipeline, self.cores = spark, pipeline, cores
        self.lake = Lake(pipeline.lake)
        [self.scorer] = scorers(self.lake, pipeline)
        spec = self.scorer.bundle.spec
        self.files = self.lake.table(spec.table).snapshot().uris()
        self.columns = [*spec.numeric_columns, *spec.categorical_columns]
        self.model = Path(tempfile.mkdtemp(prefix="model-"))
        bundle = self.scorer.bundle
        save_bundle(self.model, bundle.module.state_dict(), bundle.facts, spec)

    def run(self, out: Path) -> list[str]:
        """Scores; returns the Parquet files that hold the scores."""
        raise NotImplementedError

    def clear(self, out: Path) -> None:
        """Makes room for the next time; not part of what is measured."""
        shutil.rmtree(out, ignore_errors=True)

    def close(self) -> None:
        """Leaves nothing behind but the scores."""
        shutil.rmtree(self.model)

    def _table(self) -> DataFrame:
        return self.spark.read.parquet(*self.files).select(KEY, *self.columns)

    def _written(self, scores: DataFrame, out: Path) -> list[str]:
        scores.write.parquet(str(out))
        return sorted(map(str, out.glob("*.parquet")))


class Ours(Way):
    """The stage `score`, from the plan to the commit."""

    def run(self, out: Path) -> list[str]:  # noqa: ARG002 - into the lake
        """Scores into `predictions`."""
        score(self.spark, self.pipeline, self.lake)
        return self.lake.table("predictions").snapshot().uris()

    def clear(self, out: Path) -> None:  # noqa: ARG002
        """Forgets that anything was scored."""
        shutil.rmtree(self.lake.table("predictions").root, ignore_errors=True)


class PredictBatchUdf(Way):
    """Spark's own function for networks."""

    def run(self, out: Path) -> list[str]:
        """Scores arrays of columns, as its documentation has it for more than a few of them."""
        model, spec = str(self.model), self.scorer.bundle.spec
        kinds = spec.numeric_columns, spec.categorical_columns

        def make() -> Callable[..., npt.NDArray[np.float32]]:
            of = scoring(model)
            numeric, categorical = kinds

            def network(floats: _Column, ints: _Column) -> npt.NDArray[np.float32]:
                return of(
                    dict(zip(numeric, floats.T, strict=True))
                    | dict(zip(categorical, ints.T, strict=True))
                )

            return network

        udf = predict_batch_udf(
            make,
            return_type=FloatType(),
            batch_size=BATCH_ROWS,
            input_tensor_shapes=[[len(columns)] for columns in kinds],
        )
        arrays = [F.array(*columns) for columns in kinds]
        return self._written(self._table().select(KEY, udf(*arrays).alias("score")), out)


class MapInPandas(Way):
    """A function over pandas frames."""

    def run(self, out: Path) -> list[str]:
        """Scores frame by frame."""
        model, columns = str(self.model), self.columns

        def frames(given: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
            of = scoring(model)
            for frame in given:
                values = {column: frame[column].to_numpy() for column in columns}
                yield pd.DataFrame({KEY: frame[KEY], "score": of(values)})

        schema = f"{KEY} bigint, score float"
        return self._written(self._table().mapInPandas(frames, schema), out)


class MapInArrow(Way):
    """A function over Arrow's record batches."""

    def run(self, out: Path) -> list[str]:
        """Scores batch by batch."""
        model, columns = str(self.model), self.columns

        def batches(given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            of = scoring(model)
            for batch in given:
                values = {column: batch[column].to_numpy() for column in columns}
                yield pa.record_batch({KEY: batch[KEY], "score": pa.array(of(values))})

        schema = f"{KEY} bigint, score float"
        return self._written(self._table().mapInArrow(batches, schema), out)


class Limit(Way):
    """Plain processes, one a core; they stay, as Spark's workers do."""

    def __init__(self, spark: SparkSession, pipeline: Pipeline, cores: int) -> None:
        super().__init__(spark, pipeline, cores)
        self._processes = ProcessPoolExecutor(cores, mp_context=get_context("spawn"))
        groups = [group for group in row_groups_of(self.files) if group.rows]
        share = -(-len(groups) // (cores * _TASKS_PER_CORE))
        self._tasks = [groups[at : at + share] for at in range(0, len(groups), share)]

    def run(self, out: Path) -> list[str]:
        """Scores row group by row group."""
        out.mkdir(parents=True)
        paths = [str(out / f"{number:04d}.parquet") for number in range(len(self._tasks))]
        whole = [str(self.model)] * len(paths), [self.columns] * len(paths)
        list(self._processes.map(score_row_groups, *whole, self._tasks, paths))
        return paths

    def close(self) -> None:
        """Ends the processes."""
        self._processes.shutdown()
        super().close()


WAYS: dict[str, type[Way]] = {
    "ours": Ours,
    "predict_batch_udf": PredictBatchUdf,
    "map_in_pandas": MapInPandas,
    "map_in_arrow": MapInArrow,
    "limit": Limit,
}


@lru_cache(maxsize=1)
def scoring(model: str) -> _Score:
    """The model of a folder as a function of columns; loaded once a process."""
    torch.set_num_threads(1)
    bundle = load_bundle(Path(model))
    matrices = layout_of(bundle.spec, with_label=False).matrices

    def of(values: Mapping[str, _Column]) -> npt.NDArray[np.float32]:
        stacked = {
            name: np.stack([values[column] for column in columns], axis=1)
            for name, columns in matrices.items()
        }
        inputs = {name: torch.from_numpy(matrix) for name, matrix in stacked.items()}
        rows = len(values[next(iter(values))])
        scores: npt.NDArray[np.float32] = predict(bundle, inputs, rows)["score"].numpy()
        return scores

    return of


def score_row_groups(
    model: str, columns: Sequence[str], row_groups: Sequence[RowGroup], path: str
) -> None:
    """Scores row groups into a file."""
    of, file, name = scoring(model), None, None
    schema = pa.schema([(KEY, pa.int64()), ("score", pa.float32())])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for group in row_groups:
            if file is None or name != group.file:
                file, name = pq.ParquetFile(group.file), group.file
            table = file.read_row_group(group.index, [KEY, *columns], use_threads=False)
            scores = of({column: table[column].to_numpy() for column in columns})
            writer.write_table(pa.table([table[KEY], pa.array(scores)], schema=schema))
