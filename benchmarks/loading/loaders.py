"""The loaders that are compared: from files to batches of torch tensors, counted.

Each delivers `numeric` float32 [4096, 13], `categorical` int32 [4096, 26] and `label` [4096],
shuffled, from THREADS threads or processes, with SEED, and returns the rows that came.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import torch

from benchmarks.loading.data import (
    MATRICES,
    ROWS_PER_BATCH,
    SEED,
    THREADS,
    WINDOW_ROWS,
    FileLayout,
    warm_file,
)
from benchmarks.loading.measure import Clock, Timed
from benchmarks.loading.raw import arrow_reader
from pipeline.stream import BatchLayout, Stream

Arrays = dict[str, npt.NDArray[Any]]
Tensors = dict[str, torch.Tensor]
Read = Callable[[list[str], FileLayout], int | Timed]

# Loaders that handle rows one by one take minutes for all; this many tell their speed.
BOUND_ROWS = 262_144


@dataclass(frozen=True, slots=True)
class Loader:
    """One way to read the files."""

    read: Read
    title: str
    tries: Callable[[FileLayout, FileLayout], bool]
    """(layout, best raw layout) -> whether the layout is among those tried for this loader."""

    trial_files: int | None = None
    """How many files a trial reads; None for all."""

    children: int = 0
    """Processes it starts."""

    needs: tuple[str, ...] = ()
    """Modules that must import."""

    own_format: str | None = None
    """What it reads instead of Parquet."""

    bounded: bool = False
    """Whether it may stop before the end."""

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        for module in self.needs:
            try:
                import_module(module)
            except Exception as error:  # noqa: BLE001 - whatever a foreign package raises
                return f"import {module}: {type(error).__name__}: {error}".splitlines()[0]
        return None


def prepare() -> None:
    """Gives Arrow and torch as many threads as every loader has, and silences what they repeat."""
    pa.set_cpu_count(THREADS)
    torch.set_num_threads(THREADS)
    # Petastorm and others wrap arrays that Arrow owns.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    warnings.filterwarnings("ignore", module="petastorm")


def read_raw(files: list[str], _layout: FileLayout) -> Timed:
    """Decodes with pyarrow and throws away; the files are opened before the clock starts."""
    read = arrow_reader(files)
    clock = Clock()
    return clock.stop(read())


def read_ours(
    files: list[str],
    layout: FileLayout,
    canonical_shards: int | None = None,
    window_rows: int | None = WINDOW_ROWS,
) -> int:
    """The stream, as it ships but for the window, which is that of all loaders here."""
    wanted = BatchLayout(matrices=layout.matrices, scalars={"label": "label"})
    window: dict[str, Any] = {} if window_rows is None else {"shuffle_window_rows": window_rows}
    with Stream(
        files,
        wanted,
        rows_per_batch=ROWS_PER_BATCH,
        seed=SEED,
        canonical_shards=canonical_shards,
        **window,
    ) as stream:
        return sum(_rows(batch.tensors) for batch in stream.epoch(0))


def read_batched_dataloader(files: list[str], layout: FileLayout) -> int:
    """Petastorm's BatchedDataLoader on the bridge; its pool may lose rows.

    Its reader has a seed, its shuffling queue follows torch's.
    """
    from petastorm import make_batch_reader
    from petastorm.pytorch import BatchedDataLoader

    torch.manual_seed(SEED)
    with make_batch_reader(_urls(files), workers_count=THREADS, seed=SEED, num_epochs=1) as reader:
        loader = BatchedDataLoader(
            reader, batch_size=ROWS_PER_BATCH, shuffling_queue_capacity=WINDOW_ROWS
        )
        return sum(_rows(_matrices(batch, layout)) for batch in loader)


def read_dataloader(files: list[str], layout: FileLayout) -> Timed:
    """Petastorm's DataLoader on the bridge; its pool may lose rows.

    Where there is more data than that, it stops BOUND_ROWS rows after the first batch. The
    clock then runs from the first batch on, when its queue has been filled: to its advantage.
    """
    from petastorm import make_batch_reader
    from petastorm.pytorch import DataLoader

    np.random.seed(SEED)  # Petastorm's shuffling queue draws from this generator
    with make_batch_reader(_urls(files), workers_count=THREADS, seed=SEED, num_epochs=1) as reader:
        loader = DataLoader(reader, batch_size=ROWS_PER_BATCH, shuffling_queue_capacity=WINDOW_ROWS)
        whole, rows = Clock(), 0
        batches = iter(loader)
        first_rows = _rows(_matrices(next(batches), layout))
        filled = Clock()
        for batch in batches:
            rows += _rows(_matrices(batch, layout))
            if rows >= BOUND_ROWS:
                return filled.stop(rows)
        return whole.stop(first_rows + rows)


def read_dataset(files: list[str], layout: FileLayout) -> int:
    """A scan of a `pyarrow.dataset`, written as one would by hand.

    The order of the files is permuted; the scanner's batches (its default size, its own threads
    and read-ahead) become matrices; every 262,144 rows are joined and permuted with NumPy, and
    batches are slices of that.
    """
    random = np.random.default_rng(SEED)
    shuffled = [files[place] for place in random.permutation(len(files))]
    scanner = ds.dataset(shuffled, format="parquet").scanner(use_threads=True)
    arrays = (_to_arrays(batch, layout) for batch in scanner.to_batches())
    return sum(_rows(batch) for batch in shuffled_batches(arrays, random))


def read_dataloader_utils(files: list[str], layout: FileLayout) -> int:
    """torch-dataloader-utils under torch's DataLoader with THREADS processes.

    Each process reads its share of the row groups and has its own buffer, so each gets half of
    the window: `shuffle_buffer_size` 131,072. It draws each batch at random from its buffer. Lists
    it only delivers as Arrow's, so its Arrow batches are made matrices by its `collate_fn`.
    """
    package = import_module("torch_dataloader_utils")
    dataset = package.StructuredDataset(
        files=[package.DataFileInfo(file, Path(file).stat().st_size) for file in files],
        format="parquet",
        batch_size=ROWS_PER_BATCH,
        shuffle=True,
        shuffle_seed=SEED,
        split_rows=layout.rows_per_row_group,
        num_workers=THREADS,
        output_format="arrow",
        collate_fn=partial(_to_tensors, layout=layout),
        shuffle_buffer_size=WINDOW_ROWS // THREADS,
    )
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        num_workers=THREADS,
        collate_fn=partial(_to_tensors, layout=layout),
    )
    return sum(_rows(batch) for batch in loader)


def read_mds(files: list[str], _layout: FileLayout) -> int:
    """streaming-community (once mosaicml-streaming) from its own format, MDS.

    `shuffle_algo` py1e with `shuffle_block_size` 262,144, its counterpart of a window. It fills no
    window first, and stops after BOUND_ROWS rows; the clock runs from the start.
    """
    streaming = import_module("streaming")
    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(
        local=str(mds_folder(files)),
        shuffle=True,
        shuffle_algo="py1e",
        shuffle_seed=SEED,
        shuffle_block_size=WINDOW_ROWS,
        batch_size=ROWS_PER_BATCH,
    )
    rows = 0
    for batch in torch.utils.data.DataLoader(dataset, ROWS_PER_BATCH, num_workers=THREADS):
        rows += _rows(batch)
        if rows >= BOUND_ROWS:
            break
    return rows


def mds_folder(files: list[str]) -> Path:
    """Returns where the MDS copy of these files is."""
    name = f"mds-{Path(files[0]).stem}-{len(files)}"
    return Path(files[0]).parent / name


def convert_to_mds(files: list[str], layout: FileLayout) -> None:
    """Writes the MDS copy that `read_mds` reads, unless it is there."""
    streaming = import_module("streaming")
    folder = mds_folder(files)
    if folder.exists():
        return
    columns = {
        "numeric": f"ndarray:float32:{len(MATRICES['numeric'])}",
        "categorical": f"ndarray:int32:{len(MATRICES['categorical'])}",
        "label": "float32",
    }
    with streaming.MDSWriter(out=str(folder), columns=columns) as writer:
        for batch in ds.dataset(files, format="parquet").to_batches():
            arrays = _to_arrays(batch, layout)
            for row in range(batch.num_rows):
                writer.write({name: array[row] for name, array in arrays.items()})


def shuffled_batches(blocks: Iterator[Arrays], random: np.random.Generator) -> Iterator[Tensors]:
    """Permutes every WINDOW_ROWS rows of the blocks and cuts them into batches."""
    parts: list[Arrays] = []
    held = 0
    for block in blocks:
        parts.append(block)
        held += len(block["label"])
        while held >= WINDOW_ROWS:
            joined = _join(parts)
            yield from _cut({k: v[:WINDOW_ROWS] for k, v in joined.items()}, random)
            parts = [{k: v[WINDOW_ROWS:] for k, v in joined.items()}]
            held -= WINDOW_ROWS
    if held:
        yield from _cut(_join(parts), random)


def _join(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cut(window: Arrays, random: np.random.Generator) -> Iterator[Tensors]:
    order = random.permutation(len(window["label"]))
    for low in range(0, len(order), ROWS_PER_BATCH):
        index = order[low : low + ROWS_PER_BATCH]
        yield {name: torch.from_numpy(array.take(index, axis=0)) for name, array in window.items()}


def _to_arrays(batch: pa.RecordBatch, layout: FileLayout) -> Arrays:
    """Makes the matrices [rows, width] and the label [rows] of an Arrow batch."""
    arrays: Arrays = {"label": batch.column("label").to_numpy(zero_copy_only=False)}
    for name, columns in layout.matrices.items():
        if layout.is_flat:
            arrays[name] = np.stack([batch.column(c).to_numpy() for c in columns], axis=1)
        else:
            # [rows * width] -> [rows, width]
            arrays[name] = batch.column(name).flatten().to_numpy().reshape(batch.num_rows, -1)
    return arrays


def _to_tensors(batch: pa.RecordBatch, layout: FileLayout) -> Tensors:
    return {name: torch.from_numpy(array) for name, array in _to_arrays(batch, layout).items()}


def _matrices(batch: Tensors, layout: FileLayout) -> Tensors:
    """Makes the matrices of a batch that holds a tensor a column; lists are matrices already."""
    if not layout.is_flat:
        return batch
    made = {name: torch.stack([batch[c] for c in cs], 1) for name, cs in layout.matrices.items()}
    return {**made, "label": batch["label"]}


def _rows(batch: Tensors) -> int:
    """Checks that a batch is what every loader has to deliver; returns its rows."""
    rows = len(batch["label"])
    for name, columns in MATRICES.items():
        if batch[name].shape != (rows, len(columns)):
            raise ValueError(f"{name} has the shape {tuple(batch[name].shape)}")
    return rows


def _urls(files: list[str]) -> list[str]:
    return [Path(file).as_uri() for file in files]


def warm_up(read: Read, files: list[str], layout: FileLayout) -> None:
    """Reads a few rows once: imports, thread pools, caches."""
    read([warm_file(files)], layout)


def _any(_layout: FileLayout, _best: FileLayout) -> bool:
    return True


def _like_best(layout: FileLayout, best: FileLayout) -> bool:
    return layout.codec == best.codec and _is_large(layout, best)


def _is_large(layout: FileLayout, _best: FileLayout) -> bool:
    return layout.rows_per_row_group == 65_536 and layout.shape != "fixed"


LOADERS: dict[str, Loader] = {
    "raw": Loader(read_raw, "raw read_row_group", lambda layout, best: layout == best),
    "ours": Loader(read_ours, "ours", _any),
    "ours_one_shard": Loader(
        partial(read_ours, canonical_shards=1), "ours, canonical_shards=1", _any
    ),
    "ours_default_window": Loader(
        partial(read_ours, window_rows=None), "ours, its own default window", _any
    ),
    "dataset": Loader(read_dataset, "pyarrow.dataset, by hand", _any),
    "dataloader_utils": Loader(
        read_dataloader_utils,
        "torch-dataloader-utils",
        _like_best,
        trial_files=2,
        children=THREADS,
        needs=("torch_dataloader_utils",),
    ),
    "batched_dataloader": Loader(
        read_batched_dataloader, "Petastorm BatchedDataLoader", _like_best, trial_files=2
    ),
    "dataloader": Loader(
        read_dataloader, "Petastorm DataLoader", _like_best, trial_files=1, bounded=True
    ),
    "mds": Loader(
        read_mds,
        "streaming (MDS)",
        lambda layout, best: layout == best,
        children=THREADS,
        needs=("streaming",),
        own_format="MDS",
        bounded=True,
    ),
}
