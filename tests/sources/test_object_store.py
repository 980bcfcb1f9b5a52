"""Raw files in S3: found, looked at, read, followed; all but Hadoop's S3A is the real part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from pipeline.clean.increment import clean_increment
from pipeline.clean.stage import clean
from pipeline.errors import LakestormError
from pipeline.lake import Lake
from pipeline.sources.places import stores_of
from tests.clean import examples
from tests.clean.examples import RAW, ids, some_rows
from tests.s3_server import give_credentials, new_bucket, running_store
from tests.webhdfs import running_gateway

SECRET = "wJalrXUtnFEMI-K7MDENG"  # noqa: S105 - nobody's


class Store:
    """A bucket, and what a pipeline is told of it."""

    def __init__(self, filesystem: pafs.FileSystem, endpoint: str, work: Path) -> None:
        self.filesystem = filesystem
        self.endpoint = endpoint
        self.storage = {
            "endpoint": endpoint, "region": "us-east-1", "jars": [], "work": str(work),
        }  # fmt: skip

    def put(self, key: str, content: bytes) -> None:
        self.filesystem.create_dir(f"raw/{key}".rpartition("/")[0])
        with self.filesystem.open_output_stream(f"raw/{key}") as file:
            file.write(content)

    def put_rows(self, key: str, rows: list[dict[str, Any]]) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=RAW), sink)
        self.put(key, bytes(sink.getvalue()))


@pytest.fixture(scope="module")
def store(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch, running_store() as server:
        give_credentials(patch, SECRET)
        filesystem = new_bucket(server.port, "raw")
        with running_gateway(filesystem, "raw", "in") as gateway:
            hadoop = spark._jsc.hadoopConfiguration()
            for name, value in gateway.items():
                hadoop.set(name, value)
            endpoint = f"http://127.0.0.1:{server.port}"
            yield Store(filesystem, endpoint, tmp_path_factory.mktemp("work"))
            for name in gateway:
                hadoop.unset(name)


def described(root: Path, store: Store, path: Any, **changes: Any) -> Any:
    return examples.pipeline(
        root, {"source.path": path, "source.storage": store.storage, **changes}
    )


def test_files_in_a_store_are_read_by_folder_glob_and_partition(
    spark: SparkSession, tmp_path: Path, store: Store
) -> None:
    store.put_rows("in/a/x.parquet", some_rows(0, 5, 1))
    store.put_rows("in/a/y.parquet", some_rows(5, 5, 1))
    store.put_rows("in/b/z.parquet", some_rows(10, 5, 1))
    store.put_rows("in/_tmp/no.parquet", some_rows(90, 5, 1))
    for number, (path, wanted) in enumerate(
        (
            ("s3://raw/in", range(15)),
            ("s3://raw/in/a/[x]*.parquet", range(5)),
            (["s3://raw/in/a", "s3a://raw/in/b/z.parquet"], range(15)),
        )
    ):
        root = tmp_path / str(number)
        root.mkdir()
        pipeline = described(root, store, path)
        lake = Lake(pipeline.lake)
        done = clean(spark, pipeline, lake)
        assert done.rows_in == done.rows_out == len(wanted)
        assert ids(lake, "clean") == Counter(wanted)
        assert clean(spark, pipeline, lake).unchanged
    assert [each.filesystem for each in stores_of(pipeline)] == [
        "org.apache.hadoop.fs.s3a.S3AFileSystem"
    ]


def test_text_and_columns_of_folders_come_from_a_store(
    spark: SparkSession, tmp_path: Path, store: Store
) -> None:
    store.put("in/text/place=a%2Fb/x.csv", b'id,month,amount,delay\n1,1,2.5,3\n2,1,,"4"\n')
    pipeline = described(tmp_path, store, "s3://raw/in/text", **{"source.format": "csv"})
    lake = Lake(pipeline.lake)
    assert clean(spark, pipeline, lake).rows_out == 2
    found = pl.read_delta(lake.table("clean").root)
    assert found["place"].to_list() == ["a/b", "a/b"]
    store.put("in/text/place=c/y.csv", b'id,month,amount,delay\n1,1,2.5,"open\n')
    with pytest.raises(LakestormError, match=r"s3://raw/in/text/place%3Dc/y\.csv.*leaves a quote"):
        clean(spark, pipeline, lake)


def test_a_delta_table_in_a_store_is_read_and_followed(
    spark: SparkSession, tmp_path: Path, store: Store
) -> None:
    options: dict[str, str] = {
        "AWS_ENDPOINT_URL": store.endpoint, "AWS_ALLOW_HTTP": "true",
        "aws_conditional_put": "etag", "AWS_REGION": "us-east-1",
    }  # fmt: skip

    def append(first: int) -> None:
        table = pa.Table.from_pylist(some_rows(first, 10, 1), schema=RAW)
        write_deltalake("s3://raw/in/t", table, mode="append", storage_options=options)

    append(0)
    changes = {"clean.dedupe": {"keys": ["id"]}}
    pipeline = described(tmp_path, store, "s3://raw/in/t", **changes)
    lake = Lake(pipeline.lake)
    assert clean_increment(spark, pipeline, lake).rows_in == 10
    append(10)
    assert clean_increment(spark, pipeline, lake).rows_in == 20
    assert clean_increment(spark, pipeline, lake).unchanged
    assert ids(lake, "clean") == Counter(range(20))


def test_new_files_in_a_store_are_followed(
    spark: SparkSession, tmp_path: Path, store: Store
) -> None:
    store.put_rows("in/grows/1.parquet", some_rows(0, 5, 1))
    changes = {"clean.dedupe": {"keys": ["id"]}}
    pipeline = described(tmp_path, store, "s3://raw/in/grows", **changes)
    lake = Lake(pipeline.lake)
    assert clean_increment(spark, pipeline, lake).rows_in == 5
    store.put_rows("in/grows/2 b.parquet", some_rows(5, 5, 2))
    assert clean_increment(spark, pipeline, lake).rows_in == 10
    assert clean_increment(spark, pipeline, lake).unchanged
    assert ids(lake, "clean") == Counter(range(10))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("s3://raw/in/nothing", "there is no parquet file in"),
        ("s3://nobody-s-bucket/in", "bucket"),
        ("s3://key:hidden@raw/in", "source.path: the URI holds more than a bucket"),
    ],
)
def test_what_is_not_in_a_store_is_named(
    spark: SparkSession, tmp_path: Path, store: Store, path: str, told: str
) -> None:
    def run() -> None:
        pipeline = described(tmp_path, store, path)
        clean(spark, pipeline, Lake(pipeline.lake))

    with pytest.raises(LakestormError, match=told) as caught:
        run()
    assert "hidden" not in str(caught.value)
