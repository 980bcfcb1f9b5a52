from __future__ import annotations

import io
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import petastorm.codecs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from petastorm import make_reader
from petastorm.codecs import (
    CompressedImageCodec,
    CompressedNdarrayCodec,
    NdarrayCodec,
    ScalarCodec,
)
from petastorm.etl.dataset_metadata import UNISCHEMA_KEY, materialize_dataset
from petastorm.etl.legacy import restricted_loads
from petastorm.unischema import Unischema, UnischemaField, dict_to_spark_row
from pyspark.cloudpickle import register_pickle_by_value
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pipeline.errors import EnvironmentFault, NullValueError, SchemaError, SourceError
from pipeline.stream import BatchLayout, Stream
from pipeline.stream.codecs import ArrayCodec, ImageCodec
from pipeline.stream.layout import SequenceColumn, TensorColumn
from pipeline.stream.unischema import PetastormDataset

Schema = Unischema(
    "Everything",
    [
        UnischemaField("id", np.int32, (), ScalarCodec(T.IntegerType()), False),
        UnischemaField("small", np.uint8, (), None, False),
        UnischemaField("share", np.float64, (), ScalarCodec(T.DoubleType()), False),
        UnischemaField("late", np.bool_, (), ScalarCodec(T.BooleanType()), False),
        UnischemaField("name", np.str_, (), ScalarCodec(T.StringType()), True),
        UnischemaField("price", Decimal, (), ScalarCodec(T.DecimalType(10, 2)), False),
        UnischemaField("day", np.datetime64, (), ScalarCodec(T.DateType()), False),
        UnischemaField("matrix", np.float32, (2, 3), NdarrayCodec(), False),
        UnischemaField("packed", np.int64, (4,), CompressedNdarrayCodec(), False),
        UnischemaField("steps", np.float64, (None,), NdarrayCodec(), False),
        UnischemaField("cloud", np.float32, (None, 3), CompressedNdarrayCodec(), False),
        UnischemaField("words", np.str_, (None,), NdarrayCodec(), False),
        UnischemaField("photo", np.uint8, (6, 5, 3), CompressedImageCodec("png"), False),
        UnischemaField("depth", np.uint16, (6, 5), CompressedImageCodec("png"), False),
        UnischemaField("frame", np.uint8, (16, 8, 3), CompressedImageCodec("jpeg", 90), False),
        UnischemaField("crop", np.uint8, (None, None, 3), CompressedImageCodec("png"), False),
        UnischemaField("mask", np.uint8, (2, 2), CompressedImageCodec("png"), True),
        UnischemaField("month", np.int32, (), ScalarCodec(T.IntegerType()), False),
    ],
)

FITTING = {
    "scalars": {"id", "small", "share", "late"},
    "strings": {"name"},
    "tensors": {"matrix", "packed", "photo", "depth", "frame", "mask"},
    "sequences": {"steps"},
}
ROWS = 12


def example(row_id: int) -> dict[str, Any]:
    rng = np.random.default_rng(row_id)
    return {
        "id": row_id,
        "small": np.uint8(row_id),
        "share": row_id / 7,
        "late": row_id % 2 == 0,
        "name": f"n{row_id}" if row_id % 2 else None,
        "price": Decimal(row_id) / 4,
        "day": date(2013, 1, 1 + row_id),
        "matrix": rng.normal(size=(2, 3)).astype(np.float32),
        "packed": rng.integers(1 << 40, size=4),
        "steps": rng.normal(size=row_id % 4),
        "cloud": rng.normal(size=(row_id % 3, 3)).astype(np.float32),
        "words": np.array(["a", "bc"][: row_id % 3]).astype(np.str_),
        "photo": rng.integers(256, size=(6, 5, 3)).astype(np.uint8),
        "depth": rng.integers(1 << 16, size=(6, 5)).astype(np.uint16),
        "frame": np.full((16, 8, 3), 20 * row_id, np.uint8),
        "crop": rng.integers(256, size=(1 + row_id % 2, 2, 3)).astype(np.uint8),
        "mask": rng.integers(256, size=(2, 2)).astype(np.uint8) if row_id % 3 else None,
        "month": 1 + row_id // 6,
    }


@pytest.fixture(autouse=True)
def no_chatter(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Petastorm prints when a reader closes; keeps it out of the way."""
    yield
    capsys.readouterr()


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set written as Petastorm's documentation says, partitioned by month."""
    path = tmp_path_factory.mktemp("unischema") / "dataset"
    register_pickle_by_value(sys.modules[__name__])  # executors cannot import the tests
    with materialize_dataset(spark, path.as_uri(), Schema, row_group_size_mb=1):
        rows = spark.sparkContext.parallelize(range(ROWS), 2).map(
            lambda row_id: dict_to_spark_row(Schema, example(row_id))
        )
        frame = spark.createDataFrame(rows, Schema.as_spark_schema())
        frame.write.partitionBy("month").parquet(path.as_uri())
    return str(path)


@pytest.fixture(scope="module")
def petastorms_rows(folder: str) -> dict[int, Any]:
    """What Petastorm's own reader makes of the data set, by id; without the column of months."""
    fields = [name for name in Schema.fields if name != "month"]
    found: dict[int, Any] = {}
    uri = Path(folder).as_uri()
    chosen = {"reader_pool_type": "dummy", "num_epochs": None, "schema_fields": fields}
    with make_reader(uri, **chosen) as reader:
        for row in reader:
            found[int(row.id)] = row
            if len(found) == ROWS:
                break
    return found


def stored(dataset: PetastormDataset, column: str) -> dict[int, Any]:
    """A column's stored values by id."""
    tables = [pq.ParquetFile(file).read(columns=["id", column]) for file in dataset.files]
    table = pa.concat_tables(tables).combine_chunks()
    return dict(zip(table["id"].to_pylist(), table[column].chunk(0), strict=True))


def test_files_are_listed_sorted_and_without_summaries(folder: str) -> None:
    (Path(folder) / "_SUCCESS").touch()
    files = PetastormDataset.open(folder).files
    assert list(files) == sorted(str(path) for path in Path(folder).rglob("part-*.parquet"))
    assert len(files) >= 2


def test_the_stored_schema_comes_back_whole(folder: str) -> None:
    found = PetastormDataset.open(folder).unischema
    assert str(found) == str(Schema)
    assert list(found.fields.values()) == list(Schema.fields.values())
    assert found.as_spark_schema() == Schema.as_spark_schema()
    assert all(type(f) is UnischemaField for f in found.fields.values())


@pytest.mark.parametrize("name", sorted(FITTING["tensors"] | FITTING["sequences"]))
def test_decoded_values_are_those_of_petastorms_reader(
    folder: str, petastorms_rows: dict[int, Any], name: str
) -> None:
    dataset = PetastormDataset.open(folder)
    layout = dataset.layout([name])
    columns: dict[str, TensorColumn | SequenceColumn] = {**layout.tensors, **layout.sequences}
    column = columns[name]
    assert column.codec is not None
    assert column.column == name
    values = {i: value for i, value in stored(dataset, name).items() if value.is_valid}
    array = pa.array([value.as_py() for value in values.values()], pa.binary())
    found = column.codec.decode(array, name)
    assert set(values) == {
        i for i, row in petastorms_rows.items() if getattr(row, name) is not None
    }
    for row_id, row in zip(values, found, strict=True):
        expected = getattr(petastorms_rows[row_id], name)
        assert row.dtype == expected.dtype == column.codec.dtype
        np.testing.assert_array_equal(row, expected)
        if name != "frame":  # a JPEG is not what was written
            np.testing.assert_array_equal(row, example(row_id)[name])


def test_a_null_of_a_nullable_field_is_an_error(folder: str) -> None:
    dataset = PetastormDataset.open(folder)
    values = pa.array([v.as_py() for v in stored(dataset, "mask").values()], pa.binary())
    codec = dataset.layout(["mask"]).tensors["mask"].codec
    assert codec is not None
    with pytest.raises(NullValueError, match="4 of 12 values are null"):
        codec.decode(values, "mask")


def test_fields_become_scalars_strings_tensors_and_sequences(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        layout = PetastormDataset.open(folder).layout()
    assert {part: set(getattr(layout, part)) for part in FITTING} == FITTING
    assert layout.tensors["depth"] == TensorColumn(
        column="depth",
        shape=(6, 5),
        codec=ImageCodec(format="png", shape=(6, 5), dtype=np.dtype("u2")),
    )
    assert layout.sequences["steps"] == SequenceColumn(
        column="steps", codec=ArrayCodec(shape=(None,), dtype=np.dtype("f8"))
    )
    (record,) = caplog.records
    for name in ("price (Decimal", "day (datetime64", "words (arrays of str_", "month (not in the"):
        assert name in record.getMessage()
    assert "cloud (of shape (None, 3)" in record.getMessage()
    assert "crop (of shape (None, None, 3)" in record.getMessage()


def test_fields_that_are_asked_for_are_delivered_without_a_word(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    layout = PetastormDataset.open(folder).layout(["photo", "id", "photo"])
    assert layout == BatchLayout(
        scalars={"id": "id"},
        tensors={
            "photo": TensorColumn(
                column="photo", shape=(6, 5, 3), codec=ImageCodec(shape=(6, 5, 3))
            )
        },
    )
    assert not caplog.records


@pytest.mark.parametrize("name", ["price", "day", "cloud", "crop", "words", "month", "nothing"])
def test_a_field_that_fits_no_tensor_cannot_be_asked_for(folder: str, name: str) -> None:
    with pytest.raises(SchemaError, match=f"field '{name}': .*Leave it out"):
        PetastormDataset.open(folder).layout(["id", name])


def test_without_opencv_only_images_are_missed(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(petastorm.codecs, "OPENCV_AVAILABLE", False)
    dataset = PetastormDataset.open(folder)
    assert set(dataset.layout(["id", "matrix"]).tensors) == {"matrix"}
    with pytest.raises(EnvironmentFault, match=r"lakestorm\[images\]"):
        dataset.layout()


def test_uris_are_opened(folder: str) -> None:
    local = PetastormDataset.open(folder)
    by_uri = PetastormDataset.open(Path(folder).as_uri() + "/")
    assert by_uri.files == tuple(Path(file).as_uri() for file in local.files)
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{folder}/", "/unischema", recursive=True)
    in_memory = PetastormDataset.open("memory://unischema")
    assert len(in_memory.files) == len(local.files)
    assert str(in_memory.unischema) == str(Schema)


def test_a_relative_folder_gives_absolute_files(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(folder).parent)
    assert PetastormDataset.open(Path(folder).name).files == PetastormDataset.open(folder).files


def test_a_data_set_streams_into_batches(folder: str, petastorms_rows: dict[int, Any]) -> None:
    """Every row once, and each as Petastorm's reader has it."""
    dataset = PetastormDataset.open(folder)
    fields = [name for part in FITTING.values() for name in part if name != "mask"]
    seen: list[int] = []
    with Stream(dataset.files, dataset.layout(fields), rows_per_batch=4, seed=3) as stream:
        for batch in stream.epoch(0):
            for at, row_id in enumerate(batch.tensors["id"].tolist()):
                seen.append(row_id)
                row = petastorms_rows[row_id]
                assert batch.strings["name"][at] == row.name
                steps = batch.tensors["steps"][at, : batch.lengths["steps"][at]]
                np.testing.assert_array_equal(steps, row.steps)
                for name in FITTING["tensors"] - {"mask"}:
                    found = batch.tensors[name][at].numpy()
                    array = getattr(row, name)
                    assert found.dtype == array.dtype
                    np.testing.assert_array_equal(found, array)
                for name in FITTING["scalars"]:
                    expected = pytest.approx(float(getattr(row, name)))
                    assert batch.tensors[name][at].item() == expected
    assert sorted(seen) == list(range(ROWS))


def test_a_null_in_a_streamed_field_names_file_and_field(folder: str) -> None:
    dataset = PetastormDataset.open(folder)
    with (
        Stream(dataset.files, dataset.layout(["mask"]), rows_per_batch=4) as stream,
        pytest.raises(NullValueError, match=r"part-.*parquet, row group 0, column 'mask'"),
    ):
        list(stream.epoch(0))


# What stands in `_common_metadata`, without Spark.

Small = Unischema(
    "Small",
    [
        UnischemaField("id", np.int32, (), ScalarCodec(T.IntegerType()), False),
        UnischemaField("x", np.float32, (2,), NdarrayCodec(), True),
        UnischemaField("y", np.float32, (None,), None, False),
        UnischemaField("z", np.float64, (), ScalarCodec(T.StringType()), False),
        UnischemaField("photo", np.uint8, (2, 2), CompressedImageCodec("webp"), False),
        UnischemaField("scalars", np.int32, (3,), ScalarCodec(T.IntegerType()), False),
    ],
)


def write(folder: Path, pickled: bytes | None) -> str:
    """A data set with this for a Unischema; without its summary if None."""
    table = pa.table({name: pa.array([], pa.int32()) for name in Small.fields})
    pq.write_table(table, folder / "part-0.parquet")
    if pickled is not None:
        schema = table.schema.with_metadata({UNISCHEMA_KEY: pickled})
        pq.write_metadata(schema, folder / "_common_metadata")
    return str(folder)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_is_read(tmp_path: Path, protocol: int) -> None:
    dataset = PetastormDataset.open(write(tmp_path, pickle.dumps(Small, protocol)))
    assert str(dataset.unischema) == str(Small)


@pytest.mark.parametrize(
    "package", ["av.experimental.deepdrive.dataset_toolkit", "av.ml.dataset_toolkit"]
)
def test_what_petastorm_wrote_under_older_names_is_read(tmp_path: Path, package: str) -> None:
    pickled = pickle.dumps(Small, 0).replace(b"cpetastorm.", f"c{package}.".encode())
    pickled = pickled.replace(b"cnumpy\nfloat64", b"cnumpy\nfloat_")
    assert package.encode() in pickled
    assert str(PetastormDataset.open(write(tmp_path, pickled)).unischema) == str(Small)


def test_named_tuples_as_old_spark_pickled_them_are_read(tmp_path: Path) -> None:
    class AsOldSpark(pickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, UnischemaField):
                return _restore, ("UnischemaField", obj._fields, tuple(obj))
            return NotImplemented

    file = io.BytesIO()
    AsOldSpark(file, 2).dump(Small)
    here = f"c{__name__}\n_restore\n".encode()
    assert here in file.getvalue()
    pickled = file.getvalue().replace(here, b"cpyspark.serializers\n_restore\n")
    assert str(PetastormDataset.open(write(tmp_path, pickled)).unischema) == str(Small)


def _restore(*_: Any) -> None:
    """Stands for `pyspark.serializers._restore`, which current Spark does not have."""


_SIZES = st.none() | st.integers(1, 9) | st.integers(1, 9).map(np.int64)
_TYPES = [np.bool_, np.uint8, np.float16, np.str_, np.bytes_, Decimal, np.datetime64, int, bool]
_CODECS = st.sampled_from(
    [
        None,
        NdarrayCodec(),
        CompressedNdarrayCodec(),
        CompressedImageCodec("jpeg", 33),
        ScalarCodec(T.DecimalType(7, 3)),
        ScalarCodec(T.TimestampType()),
        ScalarCodec(T.StringType()),
    ]
)


@given(
    st.lists(
        st.builds(
            UnischemaField,
            st.text(st.characters(min_codepoint=97, max_codepoint=0x17F), min_size=7),
            st.sampled_from(_TYPES),
            st.lists(_SIZES, max_size=4).map(tuple),
            _CODECS,
            st.booleans(),
        ),
        unique_by=lambda field: field.name,
    ),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_any_unischema_comes_back(
    tmp_path_factory: pytest.TempPathFactory, fields: list[UnischemaField], protocol: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    schema = Unischema("Any", fields)
    found = PetastormDataset.open(write(folder, pickle.dumps(schema, protocol))).unischema
    assert list(found.fields.values()) == fields
    for field, expected in zip(found.fields.values(), fields, strict=True):
        assert type(field.codec) is type(expected.codec)
        assert str(field.codec) == str(expected.codec)
        if isinstance(field.codec, ScalarCodec):
            assert field.codec.spark_dtype() == expected.codec.spark_dtype()
        assert all(size is None or type(size) is int for size in field.shape)


def test_a_dtype_in_place_of_a_type_is_read(tmp_path: Path) -> None:
    schema = Unischema("S", [UnischemaField("x", np.dtype("f4"), (2,), NdarrayCodec(), False)])
    dataset = PetastormDataset.open(write(tmp_path, pickle.dumps(schema)))
    assert dataset.unischema.fields["x"].numpy_dtype is np.float32


def test_lists_need_no_codec_and_misfits_are_named(tmp_path: Path) -> None:
    dataset = PetastormDataset.open(write(tmp_path, pickle.dumps(Small)))
    layout = dataset.layout()
    assert layout.sequences == {"y": SequenceColumn(column="y")}
    assert set(layout.tensors) == {"x"}
    for name, reason in {
        "z": "float64, stored as StringType",
        "photo": "ImageCodec.format: 'webp'",
        "scalars": r"of shape \(3,\), by a codec of scalars",
    }.items():
        with pytest.raises(SchemaError, match=reason):
            dataset.layout([name])


class _Calls:
    """Is pickled as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class OwnCodec(NdarrayCodec):
    """A codec that only its author has."""


def malicious(marker: str) -> dict[str, Any]:
    make = f"import os; os.mkdir({marker!r})"
    return {
        "mkdir": _Calls(os.mkdir, marker),
        "subprocess.Popen": _Calls(subprocess.Popen, ["mkdir", marker]),
        "builtins.exec": _Calls(exec, make),
        "builtins.eval": _Calls(eval, f"__import__('os').mkdir({marker!r})"),
        "builtins.getattr": _Calls(getattr, "", "join"),
        "OwnCodec": OwnCodec(),
    }


@pytest.mark.parametrize("name", malicious(""))
def test_a_pickle_that_names_more_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    codec = malicious(str(marker))[name]
    schema = Unischema("S", [UnischemaField("x", np.float32, (2,), codec, False)])
    folder = write(tmp_path, pickle.dumps(schema))
    with pytest.raises(SchemaError, match=f"_common_metadata: .*{name}.*refused") as caught:
        PetastormDataset.open(folder)
    assert "make_reader" in caught.value.remedy
    assert not marker.exists()


def test_petastorms_own_filter_would_have_run_it(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    restricted_loads(pickle.dumps(malicious(str(marker))["builtins.exec"]))
    assert marker.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        # BUILD with a state for slots sets attributes of whatever is on the stack, also of a class.
        b"cpetastorm.codecs\nNdarrayCodec\n(NS'decode'\nS'changed'\ndtb.",
        b"cpetastorm.unischema\nUnischema.__init__\n.",
        b"\x80\x04\x8c\x13petastorm.unischema\x8c\x18Unischema.create_schema\x93.",
        pickle.dumps({"a": 1}),
        pickle.dumps(Small)[:-9],
        pickle.dumps(NdarrayCodec),
        b"",
        b"no pickle",
    ],
)
def test_what_is_no_unischema_is_refused_and_changes_nothing(
    tmp_path: Path, pickled: bytes
) -> None:
    before = dict(vars(NdarrayCodec))
    with pytest.raises(SchemaError, match="_common_metadata: the stored Unischema"):
        PetastormDataset.open(write(tmp_path, pickled))
    assert dict(vars(NdarrayCodec)) == before


def test_a_pickle_that_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    # LONG_BINPUT: the unpickler makes room for all places of its memo up to this one.
    greedy = b"\x80\x04" + b"N" + b"r" + (2**31 - 1).to_bytes(4, "little") + b"."
    folder = write(tmp_path, greedy)
    with pytest.raises(SchemaError, match="place 2147483647 of the memo"):
        PetastormDataset.open(folder)


@given(st.data())
def test_a_damaged_pickle_is_an_error_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(pickle.dumps(Small))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    folder = write(tmp_path_factory.mktemp("damaged"), bytes(damaged))
    try:
        PetastormDataset.open(folder)
    except SchemaError as error:
        assert error.where == f"{folder}/_common_metadata"  # noqa: PT017 - some damage is harmless


def test_plain_parquet_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = write(tmp_path, None)
    with pytest.raises(SchemaError, match=r"_common_metadata: not there.*BatchLayout"):
        PetastormDataset.open(folder)
    pq.write_metadata(pa.schema([("id", pa.int32())]), tmp_path / "_common_metadata")
    with pytest.raises(SchemaError, match=r"_common_metadata: no Unischema in it.*BatchLayout"):
        PetastormDataset.open(folder)


def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        PetastormDataset.open(str(tmp_path / "nowhere"))
    folder = write(tmp_path, pickle.dumps(Small))
    (tmp_path / "_common_metadata").write_bytes(b"no Parquet")
    with pytest.raises(SourceError, match=str(tmp_path)):
        PetastormDataset.open(folder)
    write(tmp_path, pickle.dumps(Small))
    (tmp_path / "part-0.parquet").unlink()
    with pytest.raises(SourceError, match="no data files"):
        PetastormDataset.open(folder)
