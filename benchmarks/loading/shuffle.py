"""How good a shuffle is, on rows sorted by label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.loading.data import FILES, ROWS_PER_BATCH, SEED
from pipeline.stream import BatchLayout, Stream

LAYOUT = BatchLayout(scalars={"label": "label", "id": "id"})


@dataclass(frozen=True, slots=True)
class Quality:
    """How far an order is from a full permutation."""

    ratio: float
    """Standard deviation of the label's mean over full batches, divided by that of a full
    permutation: 1.0 is perfect."""

    rank_correlation: float
    """Spearman's, between a row's place in the epoch and its place in the files: 0.0 is perfect."""


def write_sorted(
    folder: Path, rows: int, rows_per_row_group: int, *, spread: bool = False
) -> list[str]:
    """Writes rows of an id and a label, 1 in the last 37 %, else 0; returns the files.

    Half of each would flatter: where the label changes, a window's row groups must not happen to
    divide evenly.

    Args:
        folder: Where a folder for the files is made.
        rows: How many.
        rows_per_row_group: Rows of a row group.
        spread: Whether to write the rows in random order instead of sorted.
    """
    home = folder / f"{'spread' if spread else 'sorted'}-{rows}-{rows_per_row_group}"
    home.mkdir(parents=True, exist_ok=True)
    ids = np.arange(rows, dtype=np.int64)
    label = (ids >= rows * 63 // 100).astype(np.float32)
    order = np.random.default_rng(SEED).permutation(ids) if spread else ids
    paths = []
    for number, part in enumerate(np.array_split(order, FILES)):
        path = home / f"{number}.parquet"
        table = pa.table({"id": part, "label": label[part]})
        pq.write_table(table, path, row_group_size=rows_per_row_group, use_dictionary=False)
        paths.append(str(path))
    return paths


def shuffle_quality(
    files: list[str],
    *,
    shuffle_window_rows: int | None = None,
    canonical_shards: int | None = None,
    seeds: int = 3,
) -> Quality:
    """Measures the stream's shuffle of files that `write_sorted` wrote, over several seeds.

    A standard deviation over a few hundred batches is itself noisy, hence the mean of several.

    Args:
        files: The data.
        shuffle_window_rows: As `Stream` has it; None for its default.
        canonical_shards: As `Stream` has it; None for its default.
        seeds: How many orders to look at.
    """
    ours, full, correlations = [], [], []
    for seed in range(SEED, SEED + seeds):
        batches = list(_batches(files, seed, shuffle_window_rows, canonical_shards))
        ids = np.concatenate([ids for ids, _ in batches])
        labels = np.concatenate([label for _, label in batches])
        ours.append(_std_of_means([label for _, label in batches]))
        permuted = np.random.default_rng(seed).permutation(labels)
        full.append(
            _std_of_means(np.split(permuted, range(ROWS_PER_BATCH, len(labels), ROWS_PER_BATCH)))
        )
        correlations.append(spearman(np.arange(len(ids)), ids))
    # The mean of the correlations' sizes: the sign is chance.
    return Quality(float(np.mean(ours) / np.mean(full)), float(np.mean(np.abs(correlations))))


def spearman(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """Returns the correlation of the ranks of two arrays without ties."""
    ranks = [np.argsort(np.argsort(array)).astype(np.float64) for array in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _batches(
    files: list[str], seed: int, window_rows: int | None, shards: int | None
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    window: dict[str, Any] = {} if window_rows is None else {"shuffle_window_rows": window_rows}
    with Stream(
        files,
        LAYOUT,
        rows_per_batch=ROWS_PER_BATCH,
        seed=seed,
        canonical_shards=shards,
        **window,
    ) as stream:
        for batch in stream.epoch(0):
            yield batch.tensors["id"].numpy(), batch.tensors["label"].numpy()


def _std_of_means(batches: list[npt.NDArray[np.float32]]) -> float:
    """The batches that are not full, at the end of an epoch, would only add noise."""
    return float(np.std([batch.mean() for batch in batches if len(batch) == ROWS_PER_BATCH]))
