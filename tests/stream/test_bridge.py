"""Petastorm itself, as documented, on current pyarrow, NumPy and Python.

Petastorm's pools may end an epoch early (that is what lakestorm's own pool is for), so readers here
run without end, `num_epochs=None`, and are read until they have been round more than once.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from petastorm import TransformSpec, make_batch_reader, make_reader
from petastorm.codecs import CompressedNdarrayCodec, NdarrayCodec, ScalarCodec
from petastorm.etl.dataset_metadata import get_schema_from_dataset_url, materialize_dataset
from petastorm.predicates import in_lambda, in_negate, in_set
from petastorm.pytorch import BatchedDataLoader
from petastorm.unischema import Unischema, UnischemaField, dict_to_spark_row
from pyspark.cloudpickle import register_pickle_by_value
from pyspark.sql import SparkSession
from pyspark.sql.types import IntegerType, StringType

from pipeline.errors import SourceError, StreamError

POOLS = ["thread", "process", "dummy"]

_LOOK_BEFORE_AND_AFTER = """
import importlib, sys
names = ["pyarrow", "pyarrow.lib", "pyarrow.parquet", "pyarrow.parquet.core", "pyarrow.fs", "numpy",
         "pandas", "fsspec", "subprocess", "builtins", "pyspark", "distutils.version"]
import warnings; warnings.simplefilter("ignore")
before = {name: dict(vars(importlib.import_module(name))) for name in names}
import pipeline.stream.bridge
import petastorm, petastorm.pytorch, petastorm.unischema, petastorm.weighted_sampling_reader
import petastorm.spark.spark_dataset_converter
assert petastorm.reader.pq.ParquetDatasetPiece and petastorm.unischema.np.unicode_
for name, attributes in before.items():
    now = vars(sys.modules[name])
    changed = [key for key in attributes if now.get(key, attributes) is not attributes[key]]
    top = name.split(".")[0]
    modules = {key for key in now if getattr(now[key], "__name__", "").startswith(top)}
    added = set(now) - set(attributes) - modules - {"__warningregistry__"}
    assert not changed and not added, (name, changed, added)
for gone in ("pyarrow.filesystem", "pyarrow.hdfs"):
    assert gone not in sys.modules
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hive partitions month=1, 2, 3 of 4 row groups of 5 rows: ids 0 to 59."""
    root = tmp_path_factory.mktemp("hive")
    for month in (1, 2, 3):
        ids = np.arange(20) + 20 * (month - 1)
        (root / f"month={month}").mkdir()
        table = pa.table(
            {"id": ids, "x": pa.array(ids / 2, pa.float32()), "name": [f"n{i}" for i in ids]}
        )
        pq.write_table(table, root / f"month={month}" / "part.parquet", row_group_size=5)
    (root / "_SUCCESS").touch()
    return root


def read(url: Any, groups: int = 12, **settings: Any) -> dict[str, np.ndarray]:
    """Reads this many row groups of an endless reader and joins them by column.

    The dummy pool keeps the order of the row groups; the others do not always.
    """
    chosen: dict[str, Any] = {
        "num_epochs": None,
        "shuffle_row_groups": False,
        "reader_pool_type": "dummy",
    }
    chosen |= {"workers_count": 2, **settings}
    with make_batch_reader(url, **chosen) as reader:
        batches = list(islice(reader, groups))
    return {
        name: np.concatenate([getattr(b, name) for b in batches]) for name in batches[0]._fields
    }


def _until_seen(reader: Any, seen: set[int], ids: int) -> Iterator[Any]:
    """Gives what an endless reader delivers until this many different ids were `seen`."""
    for row in reader:
        seen.update(np.atleast_1d(row.id).tolist())
        yield row
        if len(seen) == ids:
            return


@pytest.fixture(autouse=True)
def no_chatter(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Petastorm prints when a reader closes; keeps it out of the way."""
    yield
    capsys.readouterr()


def test_the_bridge_changes_no_other_package() -> None:
    command = [sys.executable, "-c", _LOOK_BEFORE_AND_AFTER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_bridge_mends_an_import_that_failed_before() -> None:
    code = (
        "try: import petastorm\n"
        "except ImportError: pass\n"
        "import pipeline.stream.bridge, petastorm.unischema, sys\n"
        "assert 'legacy' in sys.modules['petastorm.etl.dataset_metadata'].pq.__name__"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pool", POOLS)
def test_a_hive_partitioned_folder_is_read_with_its_partition_column(
    folder: Path, pool: str
) -> None:
    seen: set[int] = set()
    chosen = {"num_epochs": None, "workers_count": 2, "reader_pool_type": pool}
    with make_batch_reader(f"file://{folder}", **chosen) as reader:
        batches = list(islice(_until_seen(reader, seen, 60), 10_000))
    assert seen == set(range(60))
    for batch in batches:
        assert batch.month.dtype == np.int64
        np.testing.assert_array_equal(batch.month, batch.id // 20 + 1)
        assert batch.name.dtype.kind == "U"


def test_a_predicate_on_the_partition_column_prunes_files(folder: Path) -> None:
    chosen = in_lambda(["month"], lambda month: month >= 2)
    columns = read(f"file://{folder}", groups=8, predicate=chosen)
    assert columns["id"].tolist() == list(range(20, 60))


def test_a_predicate_on_another_column_selects_rows(folder: Path) -> None:
    chosen = in_lambda(["id"], lambda ids: ids % 10 == 3)
    columns = read(f"file://{folder}", groups=6, predicate=chosen)
    assert columns["id"].tolist() == [3, 13, 23, 33, 43, 53]
    assert columns["month"].tolist() == [1, 1, 2, 2, 3, 3]


def test_filters_prune_partitions_and_refuse_what_would_be_ignored(folder: Path) -> None:
    columns = read(f"file://{folder}", groups=4, filters=[("month", "=", 2)])
    assert columns["id"].tolist() == list(range(20, 40))
    either = [[("month", "in", {1, 9})], [("month", ">", 2)]]
    columns = read(f"file://{folder}", groups=8, filters=either)
    assert set(columns["month"]) == {1, 3}
    with pytest.raises(StreamError, match="filters on 'id': not a partition column"):
        make_batch_reader(f"file://{folder}", filters=[("id", "=", 2)])
    with pytest.raises(StreamError, match="unknown operator 'like'"):
        make_batch_reader(f"file://{folder}", filters=[("month", "like", 2)])


def test_a_transform_adds_and_removes_columns(folder: Path) -> None:
    spec = TransformSpec(
        lambda frame: frame.assign(double=frame.x * 2),
        edit_fields=[("double", np.float32, (), False)],
        removed_fields=["name", "month"],
    )
    columns = read(f"file://{folder}", transform_spec=spec)
    assert set(columns) == {"id", "x", "double"}
    np.testing.assert_array_equal(columns["double"], columns["id"])


def test_columns_are_selected_by_pattern(folder: Path) -> None:
    assert set(read(f"file://{folder}", schema_fields=["id", "n.*"])) == {"id", "name"}


def test_a_list_of_files_is_read(folder: Path) -> None:
    files = [f"file://{path}" for path in sorted(folder.glob("*/*.parquet"))[1:]]
    assert read(files, groups=8)["id"].tolist() == list(range(20, 60))


def test_fsspec_urls_and_pyarrow_filesystems_are_read(folder: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{folder}/", "/bridge/hive", recursive=True)
    for options in ({}, {"filesystem": filesystem}):
        columns = read("memory://bridge/hive", **options)
        assert columns["id"].tolist() == list(range(60))
        assert set(columns["month"]) == {1, 2, 3}
    columns = read(f"file://{folder}", filesystem=pa.fs.LocalFileSystem())
    assert columns["id"].tolist() == list(range(60))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
def test_petastorms_own_loader_makes_batches(folder: Path) -> None:
    with make_batch_reader(
        f"file://{folder}", schema_fields=["id", "x"], num_epochs=None, workers_count=2
    ) as reader:
        batches = list(islice(BatchedDataLoader(reader, batch_size=16), 12))
    assert {len(batch["id"]) for batch in batches} == {16}
    assert {i for batch in batches for i in batch["id"].tolist()} == set(range(60))


def test_a_folder_without_parquet_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no Parquet file"):
        make_batch_reader(f"file://{tmp_path}")


Schema = Unischema(
    "Example",
    [
        UnischemaField("id", np.int32, (), ScalarCodec(IntegerType()), False),
        UnischemaField("name", np.str_, (), ScalarCodec(StringType()), True),
        UnischemaField("matrix", np.float32, (2, 3), NdarrayCodec(), False),
        UnischemaField("packed", np.uint8, (None, 2), CompressedNdarrayCodec(), False),
    ],
)


def example(row_id: int) -> dict[str, Any]:
    return {
        "id": row_id,
        "name": f"n{row_id}" if row_id % 2 else None,
        "matrix": np.full((2, 3), row_id, np.float32),
        "packed": np.full((row_id % 3, 2), row_id, np.uint8),
    }


@pytest.fixture(scope="module")
def dataset_url(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set written as Petastorm's documentation says, rows encoded on the executors."""
    url = f"file://{tmp_path_factory.mktemp('petastorm')}/dataset"
    context = spark.sparkContext
    register_pickle_by_value(sys.modules[__name__])  # executors cannot import the tests
    with materialize_dataset(spark, url, Schema, row_group_size_mb=1):
        rows = (
            context.parallelize(range(30), 2)
            .map(example)
            .map(lambda row: dict_to_spark_row(Schema, row))
        )
        frame = spark.createDataFrame(rows, Schema.as_spark_schema())
        frame.write.parquet(url)
    return url


def read_rows(url: str, count: int, **settings: Any) -> list[Any]:
    with make_reader(url, num_epochs=None, workers_count=2, **settings) as reader:
        return list(islice(reader, count))


@pytest.mark.parametrize("pool", POOLS)
def test_a_petastorm_data_set_is_decoded(dataset_url: str, pool: str) -> None:
    seen: set[int] = set()
    chosen = {"num_epochs": None, "workers_count": 2, "reader_pool_type": pool}
    with make_reader(dataset_url, **chosen) as reader:
        # A worker process that is slow may stay rounds behind the other.
        rows = list(islice(_until_seen(reader, seen, 30), 10_000))
    assert seen == set(range(30))
    for row in rows:
        expected = example(int(row.id))
        assert row.name == expected["name"]
        np.testing.assert_array_equal(row.matrix, expected["matrix"])
        np.testing.assert_array_equal(row.packed, expected["packed"])


class _Garbage:
    """A cycle whose finalizer is Python code, in which another thread may get its turn."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(50))


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Garbage is collected, and threads take turns, in the middle of everything."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(20)
    sys.setswitchinterval(1e-6)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_collector")
def test_arrays_are_decoded_in_several_threads_while_garbage_is_collected() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain, packed = Schema.fields["matrix"], UnischemaField("packed", np.float32, (2, 3))
    codecs = [(NdarrayCodec(), plain), (CompressedNdarrayCodec(), packed)]
    stored = [(codec, bytes(codec.encode(field, matrix))) for codec, field in codecs]

    def decode(_: int) -> None:
        for codec, value in stored * 100:
            _Garbage()
            np.testing.assert_array_equal(codec.decode(None, value), matrix)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(decode, range(4))) == [None] * 4


def test_a_petastorm_data_set_keeps_its_schema(dataset_url: str) -> None:
    assert (Path(dataset_url.removeprefix("file://")) / "_common_metadata").exists()
    stored = get_schema_from_dataset_url(dataset_url)
    assert list(stored.fields.values()) == list(Schema.fields.values())
    assert isinstance(stored.fields["matrix"].codec, NdarrayCodec)


def test_predicates_and_transforms_see_decoded_rows(dataset_url: str) -> None:
    def halve(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "matrix": row["matrix"] / 2}

    rows = read_rows(
        dataset_url,
        8,
        reader_pool_type="dummy",
        predicate=in_negate(in_set(set(range(4, 30)), "id")),
        transform_spec=TransformSpec(halve, removed_fields=["packed"]),
        schema_fields=["id", "matrix", "packed"],
    )
    assert {int(row.id) for row in rows} == {0, 1, 2, 3}
    assert all((row.matrix == row.id / 2).all() for row in rows)
    assert set(rows[0]._fields) == {"id", "matrix"}  # Petastorm takes them out of a set
