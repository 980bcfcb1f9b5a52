"""Every kind of tensor through the public stream, against what pyarrow reads of the same files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import NullValueError, PlanError, RowGroupError, SchemaError
from pipeline.stream import Batch, BatchLayout, Stream
from pipeline.stream.codecs import ImageCodec, RawCodec
from pipeline.stream.layout import SequenceColumn, TensorColumn
from tests.stream.every_kind import EVERY_KIND, every_kind, lists, same_batch, sequence_of

ROWS = 50
ID = {"id": "id"}
NUMBERS = {
    pa.bool_(): torch.int32,
    pa.int8(): torch.int32,
    pa.int16(): torch.int32,
    pa.int32(): torch.int32,
    pa.int64(): torch.int64,
    pa.uint8(): torch.int32,
    pa.uint16(): torch.int32,
    pa.uint32(): torch.int64,
    pa.float16(): torch.float32,
    pa.float32(): torch.float32,
    pa.float64(): torch.float32,
}
"""Arrow type -> the dtype that scalars, matrices and sequences have of it."""


def write(folder: Path, columns: dict[str, Any], rows_per_group: int = 13, **how: Any) -> list[str]:
    """Writes one file of an id and these columns."""
    path = folder / "rows.parquet"
    rows = len(next(iter(columns.values())))
    table = pa.table({"id": pa.array(range(rows), pa.int64()), **columns})
    pq.write_table(table, path, row_group_size=rows_per_group, **how)
    return [str(path)]


def epoch(files: Sequence[str], layout: BatchLayout, epoch: int = 0, **chosen: Any) -> list[Batch]:
    with Stream(files, layout, **{"rows_per_batch": 16, **chosen}) as stream:
        return list(stream.epoch(epoch))


def by_id(batches: Sequence[Batch], name: str) -> dict[int, Any]:
    """Each row of a tensor (of a sequence: as long as it is) or of a string column."""
    found: dict[int, Any] = {}
    for batch in batches:
        for place, row_id in enumerate(batch.tensors["id"].tolist()):
            assert row_id not in found
            if name in batch.strings:
                found[row_id] = batch.strings[name][place]
            elif name in batch.lengths:
                length = int(batch.lengths[name][place])
                found[row_id] = batch.tensors[name][place][:length].numpy()
            else:
                found[row_id] = batch.tensors[name][place].numpy()
    return found


def assert_rows(batches: Sequence[Batch], name: str, expected: Any) -> None:
    found = by_id(batches, name)
    assert sorted(found) == list(range(len(expected)))
    for row_id, row in enumerate(expected):
        np.testing.assert_array_equal(found[row_id], row, f"row {row_id} of {name}", strict=False)


def numbers(rng: np.random.Generator, arrow: pa.DataType, shape: tuple[int, ...]) -> Any:
    """Numbers over the whole range of a type; floats that every float type holds exactly."""
    if pa.types.is_boolean(arrow):
        return rng.integers(0, 2, shape).astype(bool)
    dtype = np.dtype(arrow.to_pandas_dtype())
    if dtype.kind == "f":
        return (rng.integers(-1000, 1000, shape) / 8).astype(dtype)
    bounds = np.iinfo(dtype)
    return rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)


def flattened(values: Any) -> Any:
    # [rows, a, b, ...] -> [rows, a * b * ...]; -1 would not do for no rows
    return values.reshape(len(values), math.prod(values.shape[1:]))


def tensor_extension(values: Any) -> pa.Array:
    storage = lists(flattened(values), pa.list_)
    kind = pa.fixed_shape_tensor(storage.type.value_type, list(values.shape[1:]))
    return pa.ExtensionArray.from_storage(kind, storage)


LIST_TYPES = {
    "list": lambda t, _: pa.list_(t),
    "large_list": lambda t, _: pa.large_list(t),
    "fixed_size_list": pa.list_,
}


# --- scalars and matrices -------------------------------------------------------------------------


@pytest.mark.parametrize("arrow", NUMBERS, ids=str)
def test_a_number_of_any_type_is_a_scalar_a_matrix_and_a_part_of_one(
    tmp_path: Path, arrow: pa.DataType
) -> None:
    rng = np.random.default_rng(1)
    flat, packed = numbers(rng, arrow, (ROWS,)), numbers(rng, arrow, (ROWS, 3))
    columns = {"flat": pa.array(flat, arrow), "packed": lists(packed, LIST_TYPES["list"])}
    layout = BatchLayout(
        scalars={**ID, "one": "flat"},
        matrices={"twice": ("flat", "flat"), "mixed": ("flat", "packed", "flat")},
    )
    batches = epoch(write(tmp_path, columns), layout)
    for name in ("one", "twice", "mixed"):
        assert {batch.tensors[name].dtype for batch in batches} == {NUMBERS[arrow]}
    dtype = batches[0].tensors["one"].numpy().dtype
    assert_rows(batches, "one", flat.astype(dtype))
    assert_rows(batches, "twice", np.stack([flat, flat], 1).astype(dtype))
    mixed = np.concatenate([flat[:, None], packed, flat[:, None]], 1).astype(dtype)
    assert_rows(batches, "mixed", mixed)


def test_a_matrix_is_as_wide_as_the_widest_of_its_integers(tmp_path: Path) -> None:
    columns = {
        "small": pa.array(range(-25, 25), pa.int8()),
        "truth": pa.array([i % 3 == 0 for i in range(ROWS)]),
        "large": pa.array([2**40 + i for i in range(ROWS)], pa.int64()),
        "pair": pa.array([[i, 2**32 - 1 - i] for i in range(ROWS)], pa.list_(pa.uint32())),
    }
    layout = BatchLayout(
        scalars=ID,
        matrices={
            "flat": ("small", "truth", "large"),
            "narrow": ("truth", "small"),
            "all": ("pair", "small", "truth", "large"),
        },
    )
    batches = epoch(write(tmp_path, columns), layout)
    dtypes = {name: tensor.dtype for name, tensor in batches[0].tensors.items()}
    assert (dtypes["flat"], dtypes["narrow"], dtypes["all"]) == (
        *(torch.int64, torch.int32, torch.int64),
    )
    flat = [[i - 25, i % 3 == 0, 2**40 + i] for i in range(ROWS)]
    assert_rows(batches, "flat", flat)
    assert_rows(batches, "narrow", [[row[1], row[0]] for row in flat])
    assert_rows(batches, "all", [[i, 2**32 - 1 - i, *flat[i]] for i in range(ROWS)])


@pytest.mark.parametrize(
    "how",
    [
        {"use_dictionary": True},
        {"use_dictionary": False},
        {"use_dictionary": False, "data_page_version": "2.0", "compression": "zstd"},
        {"use_dictionary": ["text"], "data_page_size": 64, "compression": "none"},
        {"store_schema": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("nullable", [True, False])
def test_the_encoding_and_whether_a_column_is_optional_change_nothing(
    tmp_path: Path, how: dict[str, Any], nullable: bool
) -> None:
    ids = np.arange(ROWS)
    sequence = [list(range(i % 4)) for i in ids]
    fields = {
        "id": (pa.array(ids), pa.int64()),
        "number": (pa.array(ids % 5 / 4, pa.float64()), pa.float64()),
        "packed": (lists(ids[:, None] % [2, 3], LIST_TYPES["list"]), None),
        "image": (lists((ids[:, None, None] % np.ones((2, 2), int)), LIST_TYPES["list"]), None),
        "sequence": (pa.array(sequence, pa.list_(pa.int16())), None),
        "text": (pa.array([f"t{i % 3}" for i in ids]), pa.string()),
    }
    schema = pa.schema(
        [pa.field(name, kind or array.type, nullable) for name, (array, kind) in fields.items()]
    )
    table = pa.table([array for array, _ in fields.values()], schema=schema)
    path = str(tmp_path / "rows.parquet")
    pq.write_table(table, path, row_group_size=13, **how)
    layout = BatchLayout(
        scalars=ID,
        matrices={"m": ("number",), "p": ("packed",)},
        tensors={"image": TensorColumn(column="image", shape=(2, 2))},
        sequences={"sequence": SequenceColumn(column="sequence")},
        strings=("text",),
    )
    batches = epoch([path], layout)
    assert_rows(batches, "m", ids[:, None] % 5 / 4)
    assert_rows(batches, "p", ids[:, None] % [2, 3])
    assert_rows(batches, "image", np.zeros((ROWS, 2, 2)))
    assert_rows(batches, "sequence", sequence)
    assert by_id(batches, "text") == {i: f"t{i % 3}" for i in range(ROWS)}


def test_strings_come_only_where_asked_for_and_nulls_are_none(tmp_path: Path) -> None:
    texts = [None if i % 5 == 0 else f"é{i}" * (i % 3) for i in range(ROWS)]
    columns = {"text": pa.array(texts), "large": pa.array(texts, pa.large_string())}
    files = write(tmp_path, columns)
    assert epoch(files, BatchLayout(scalars=ID))[0].strings == {}
    batches = epoch(files, BatchLayout(scalars=ID, strings=("text", "large")))
    for name in ("text", "large"):
        assert by_id(batches, name) == dict(enumerate(texts))
        assert all(batch.strings[name].dtype == object for batch in batches)


# --- sequences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrow", [t for t in NUMBERS if not pa.types.is_boolean(t)], ids=str)
@pytest.mark.parametrize("list_type", ["list", "large_list"])
def test_sequences_are_padded_behind_and_have_lengths(
    tmp_path: Path, arrow: pa.DataType, list_type: str
) -> None:
    rows = [sequence_of(i) for i in range(ROWS)]
    values = pa.array(rows, pa.list_(pa.int32())).cast(LIST_TYPES[list_type](arrow, 0))
    layout = BatchLayout(scalars=ID, sequences={"s": SequenceColumn(column="values", padding=-7)})
    batches = epoch(write(tmp_path, {"values": values}), layout)
    assert_rows(batches, "s", rows)
    for batch in batches:
        tensor, lengths = batch.tensors["s"], batch.lengths["s"]
        assert tensor.dtype == NUMBERS[arrow]
        assert lengths.dtype == torch.int64
        assert lengths.tolist() == [len(rows[i]) for i in batch.tensors["id"].tolist()]
        assert tensor.shape == (batch.rows, lengths.max())
        padded = np.arange(tensor.size(1)) >= lengths.numpy()[:, None]
        assert (tensor.numpy()[padded] == -7).all()


@pytest.mark.parametrize("padding", [0.5, math.nan, -math.inf])
def test_a_sequence_of_floats_is_padded_with_any_float(tmp_path: Path, padding: float) -> None:
    values = pa.array([[1.0], []] * 8, pa.list_(pa.float32()))
    layout = BatchLayout(sequences={"s": SequenceColumn(column="values", padding=padding)})
    (batch,) = epoch(write(tmp_path, {"values": values}), layout)
    behind = batch.tensors["s"][batch.lengths["s"] == 0]
    torch.testing.assert_close(behind, torch.full((8, 1), padding), equal_nan=True)


@pytest.mark.parametrize("padding", [0.5, math.nan])
def test_a_padding_that_integers_cannot_hold_is_refused(tmp_path: Path, padding: float) -> None:
    values = pa.array([[1], []] * 8, pa.list_(pa.int32()))
    files = write(tmp_path, {"values": values})
    layout = BatchLayout(sequences={"s": SequenceColumn(column="values", padding=padding)})
    with pytest.raises((PlanError, SchemaError), match="padding"):
        epoch(files, layout)


def test_batches_and_files_of_empty_sequences_only_have_no_width(tmp_path: Path) -> None:
    # The first row group holds empty lists only, and all come in the order of the file.
    rows = [[] if i < 26 else [1.5] * (i % 3) for i in range(ROWS)]
    files = write(tmp_path, {"values": pa.array(rows, pa.list_(pa.float32()))})
    layout = BatchLayout(scalars=ID, sequences={"s": SequenceColumn(column="values", padding=9)})
    batches = epoch(files, layout, shuffle=False, rows_per_batch=13)
    assert [batch.tensors["s"].shape for batch in batches] == [(13, 0)] * 2 + [(13, 2), (11, 2)]
    assert batches[0].tensors["s"].dtype == torch.float32
    assert batches[0].lengths["s"].tolist() == [0] * 13
    assert_rows(batches, "s", rows)


def test_a_rank_without_rows_gets_an_empty_batch_of_every_kind(tmp_path: Path) -> None:
    files = write(tmp_path, every_kind(1))
    with Stream(files, EVERY_KIND, rows_per_batch=8, rank=0, world_size=8) as stream:
        (batch,) = stream.epoch(0)
    assert batch.rows == 0
    assert batch.tensors["s"].shape == (0, 0)
    assert batch.lengths["s"].shape == (0,)
    assert batch.tensors["image"].shape == (0, 2, 3)
    assert batch.tensors["mixed"].shape == (0, 3)
    assert batch.strings["text"].shape == (0,)
    (full,) = epoch(files, EVERY_KIND, rows_per_batch=8)
    assert {n: t.dtype for n, t in batch.tensors.items()} == {
        n: t.dtype for n, t in full.tensors.items()
    }


@pytest.mark.parametrize(
    "values",
    [[[1.0, 2.0]] * 40 + [None] * 10, [[1.0]] * 40 + [[1.0, None]] * 10],
    ids=["null list", "null inside"],
)
def test_a_null_in_a_sequence_names_file_row_group_and_column(
    tmp_path: Path, values: list[Any]
) -> None:
    files = write(tmp_path, {"values": pa.array(values)}, rows_per_group=10)
    layout = BatchLayout(sequences={"s": SequenceColumn(column="values")})
    where = r"rows.parquet, row group 4, column 'values': \d+ of \d+ values are null"
    with pytest.raises(NullValueError, match=where):
        epoch(files, layout)


# --- tensors of fixed shape -----------------------------------------------------------------------


def image_columns(values: Any) -> dict[str, tuple[pa.Array, Any]]:
    """Images in each way they may be stored, and the codec."""
    import cv2

    raw = [row.tobytes() for row in values]
    return {
        "flat list": (lists(flattened(values), LIST_TYPES["list"]), None),
        "flat large list": (lists(flattened(values), LIST_TYPES["large_list"]), None),
        "flat fixed list": (lists(flattened(values), pa.list_), None),
        "nested lists": (lists(values, LIST_TYPES["list"]), None),
        "nested fixed lists": (lists(values, pa.list_), None),
        "extension": (tensor_extension(values), None),
        "raw": (pa.array(raw, pa.binary()), RawCodec(shape=values.shape[1:], dtype=values.dtype)),
        "raw of fixed size": (
            pa.array(raw, pa.binary(len(raw[0]))),
            RawCodec(shape=values.shape[1:], dtype=values.dtype),
        ),
        "png": (
            # OpenCV takes and gives blue first.
            pa.array([cv2.imencode(".png", row[..., ::-1])[1].tobytes() for row in values]),
            ImageCodec(shape=values.shape[1:]),
        ),
    }


IMAGE_KINDS = [
    "flat list",
    "flat large list",
    "flat fixed list",
    "nested lists",
    "nested fixed lists",
    "extension",
    "raw",
    "raw of fixed size",
    "png",
]


@pytest.mark.parametrize("kind", IMAGE_KINDS)
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_images_come_as_they_were_stored_or_in_the_dtype_asked_for(
    tmp_path: Path, kind: str, dtype: str | None
) -> None:
    images = np.random.default_rng(2).integers(0, 256, (ROWS, 4, 5, 3), np.uint8)
    column, codec = image_columns(images)[kind]
    files = write(tmp_path, {"image": column})
    asked = TensorColumn(column="image", shape=(4, 5, 3), dtype=dtype, codec=codec)
    for chosen in ({}, {"shuffle_window_rows": 16}, {"shuffle": False}, {"canonical_shards": 1}):
        batches = epoch(files, BatchLayout(scalars=ID, tensors={"x": asked}), **chosen)
        assert {b.tensors["x"].dtype for b in batches} == {getattr(torch, dtype or "uint8")}
        assert {b.tensors["x"].shape[1:] for b in batches} == {(4, 5, 3)}
        assert_rows(batches, "x", images)


@pytest.mark.parametrize("arrow", [*NUMBERS], ids=str)
@pytest.mark.parametrize("nested", [True, False])
def test_tensors_of_two_dimensions_keep_the_type_they_are_stored_in(
    tmp_path: Path, arrow: pa.DataType, nested: bool
) -> None:
    values = numbers(np.random.default_rng(3), arrow, (ROWS, 2, 3))
    column = lists(values if nested else values.reshape(ROWS, 6), LIST_TYPES["list"])
    layout = BatchLayout(scalars=ID, tensors={"x": TensorColumn(column="x", shape=(2, 3))})
    batches = epoch(write(tmp_path, {"x": column}), layout)
    kept = {pa.bool_(): torch.int32, pa.float64(): torch.float32}
    expected = kept.get(arrow, torch.from_numpy(values).dtype)
    assert {batch.tensors["x"].dtype for batch in batches} == {expected}
    assert_rows(batches, "x", values)


def test_doubles_stay_doubles_where_asked_for(tmp_path: Path) -> None:
    values = 1 + np.arange(ROWS * 2).reshape(ROWS, 2) * 2.0**-40
    column = lists(values, LIST_TYPES["list"])
    asked = TensorColumn(column="x", shape=(2,), dtype="float64")
    batches = epoch(write(tmp_path, {"x": column}), BatchLayout(scalars=ID, tensors={"x": asked}))
    assert_rows(batches, "x", values)


WRONG = [
    ("flat list", (4, 5, 4)),
    ("flat fixed list", (4, 5)),
    ("nested lists", (5, 4, 3)),
    ("nested lists", (4, 5, 2)),
    ("nested fixed lists", (4, 5, 2)),
    ("nested fixed lists", (5, 4, 3)),
    ("extension", (4, 4, 3)),
    ("extension", (5, 4, 3)),
]


@pytest.mark.parametrize(("kind", "shape"), WRONG)
def test_a_wrong_shape_names_file_and_column(
    tmp_path: Path, kind: str, shape: tuple[int, ...]
) -> None:
    images = np.zeros((20, 4, 5, 3), np.uint8)
    files = write(tmp_path, {"image": image_columns(images)[kind][0]})
    layout = BatchLayout(tensors={"x": TensorColumn(column="image", shape=shape)})
    with pytest.raises(SchemaError, match=r"rows.parquet.* column 'image'"):
        epoch(files, layout)


def test_an_extension_whose_dimensions_are_permuted_is_not_taken_for_another(
    tmp_path: Path,
) -> None:
    storage = lists(np.arange(ROWS * 6).reshape(ROWS, 6), pa.list_)
    kind = pa.fixed_shape_tensor(pa.int64(), [2, 3], permutation=[1, 0])
    column = pa.ExtensionArray.from_storage(kind, storage)
    files = write(tmp_path, {"x": column})
    layout = BatchLayout(scalars=ID, tensors={"x": TensorColumn(column="x", shape=(3, 2))})
    try:
        batches = epoch(files, layout)
    except SchemaError as error:
        assert "column 'x'" in str(error)  # noqa: PT017 - refusing is as good as permuting
    else:
        assert_rows(batches, "x", column.to_numpy_ndarray())


@pytest.mark.parametrize(
    ("late", "problem"),
    [
        ([[1, 2], [3, 4], [5, 6]], "3 to 3|2 to 3|another shape"),
        ([[1, 2], [3]], "1 to 2|another shape"),
        ([[1, 2], []], "0 to 2|another shape"),
    ],
)
def test_a_row_of_another_shape_names_file_row_group_and_column(
    tmp_path: Path, late: list[list[int]], problem: str
) -> None:
    rows = [[[1, 2], [3, 4]]] * 15 + [late]
    files = write(tmp_path, {"x": pa.array(rows)}, rows_per_group=10)
    layout = BatchLayout(tensors={"x": TensorColumn(column="x", shape=(2, 2))})
    where = rf"rows.parquet, row group 1, column 'x': .*({problem})"
    with pytest.raises(SchemaError, match=where):
        epoch(files, layout)


def test_bytes_of_another_length_name_file_row_group_column_and_row(tmp_path: Path) -> None:
    rows = pa.array([b"\x00" * 6] * 15 + [b"\x00" * 5])
    files = write(tmp_path, {"x": rows}, rows_per_group=10)
    codec = RawCodec(shape=(2, 3), dtype=np.dtype(np.uint8))
    layout = BatchLayout(tensors={"x": TensorColumn(column="x", shape=(2, 3), codec=codec)})
    with pytest.raises(SchemaError, match=r"rows.parquet, row group 1, column 'x', row 5: 5 bytes"):
        epoch(files, layout)


@pytest.mark.parametrize(
    "values",
    [
        [[[1, 2], [3, 4]]] * 15 + [None],
        [[[1, 2], [3, 4]]] * 15 + [[[1, 2], None]],
        [[[1, 2], [3, 4]]] * 15 + [[[1, 2], [3, None]]],
    ],
    ids=["outermost", "inner list", "value"],
)
@pytest.mark.parametrize("fixed", [False, True])
def test_a_null_at_any_depth_of_a_tensor_names_file_row_group_and_column(
    tmp_path: Path, values: list[Any], fixed: bool
) -> None:
    kind = pa.list_(pa.list_(pa.int32(), 2), 2) if fixed else pa.list_(pa.list_(pa.int32()))
    files = write(tmp_path, {"x": pa.array(values, kind)}, rows_per_group=10)
    layout = BatchLayout(tensors={"x": TensorColumn(column="x", shape=(2, 2))})
    where = r"rows.parquet, row group 1"
    if fixed and values[-1] != [[1, 2], [3, None]]:
        # Arrow itself cannot read null lists of fixed size, and does not say in which column.
        with pytest.raises((NullValueError, RowGroupError), match=where):
            epoch(files, layout)
    else:
        with pytest.raises(NullValueError, match=rf"{where}, column 'x': \d+ of"):
            epoch(files, layout)


@pytest.mark.parametrize(
    ("first", "second"),
    [(pa.int32(), pa.float32()), (pa.uint8(), pa.int8()), (pa.uint32(), pa.int32())],
    ids=str,
)
def test_files_that_store_a_tensor_in_types_without_a_common_one_lose_no_value(
    tmp_path: Path, first: pa.DataType, second: pa.DataType
) -> None:
    value = 0.5 if pa.types.is_floating(second) else -1
    files = []
    for number, (arrow, row) in enumerate([(first, [1, 2]), (second, [value, 2])]):
        files.append(str(tmp_path / f"part-{number}.parquet"))
        table = pa.table({"id": [number], "x": pa.array([row], pa.list_(arrow))})
        pq.write_table(table, files[-1])
    layout = BatchLayout(scalars=ID, tensors={"x": TensorColumn(column="x", shape=(2,))})
    try:
        batches = epoch(files, layout)
    except SchemaError as error:
        assert "column 'x'" in str(error)  # noqa: PT017 - refusing is as good as widening
    else:
        assert_rows(batches, "x", [[1, 2], [value, 2]])


def test_a_column_whose_name_begins_like_another_is_not_taken_for_it(tmp_path: Path) -> None:
    columns = {
        "x.y": pa.array(range(ROWS)),
        "x": pa.array([[i, i + 1, i + 2] for i in range(ROWS)]),
        "xx": pa.array(range(ROWS)),
    }
    layout = BatchLayout(scalars={**ID, "dotted": "x.y"}, matrices={"m": ("x",)})
    batches = epoch(write(tmp_path, columns), layout)
    assert_rows(batches, "m", [[i, i + 1, i + 2] for i in range(ROWS)])
    assert_rows(batches, "dotted", range(ROWS))


@pytest.mark.parametrize("part", ["matrices", "tensors", "sequences"])
def test_a_column_that_has_fewer_rows_than_the_footer_says_is_named(
    tmp_path: Path, part: str
) -> None:
    # pyarrow 25 writes lists in pages of so few bytes that it reads no row of them.
    field = pa.field("x", pa.list_(pa.bool_()), nullable=False)
    table = pa.table([pa.array([[True, False]])], schema=pa.schema([field]))
    path = str(tmp_path / "rows.parquet")
    pq.write_table(table, path, data_page_version="2.0", data_page_size=64)
    assert pq.ParquetFile(path).metadata.num_rows == 1
    if pq.ParquetFile(path).read_row_group(0, columns=["x"]).num_rows:
        pytest.skip("this pyarrow reads what it wrote")
    asked: dict[str, Any] = {
        "matrices": ("x",),
        "tensors": TensorColumn(column="x", shape=(2,)),
        "sequences": SequenceColumn(column="x"),
    }
    parts: dict[str, Any] = {part: {"out": asked[part]}}
    layout = BatchLayout(**parts)
    with pytest.raises(RowGroupError, match=r"rows.parquet, row group 0: 0 rows"):
        epoch([path], layout)


# --- all kinds at once ----------------------------------------------------------------------------


def copied(batch: Batch) -> Batch:
    return Batch(
        {name: tensor.clone() for name, tensor in batch.tensors.items()},
        {name: text.copy() for name, text in batch.strings.items()},
        batch.rows,
        batch.step,
        batch.global_rows,
        {name: lengths.clone() for name, lengths in batch.lengths.items()},
    )


def assert_every_kind(batches: Sequence[Batch], rows: int) -> None:
    ids = np.arange(rows)
    assert_rows(batches, "one", ids / 2)
    assert_rows(batches, "flat", np.stack([ids, ids], 1) / 2)
    assert_rows(batches, "mixed", np.stack([ids / 2, ids, ids + 0.25], 1))
    assert_rows(batches, "image", (ids[:, None, None] + np.arange(6).reshape(2, 3)) % 251)
    assert_rows(batches, "raw", np.stack([ids, -ids], 1))
    assert_rows(batches, "s", [sequence_of(int(i)) for i in ids])
    assert by_id(batches, "text") == {i: None if i % 5 == 0 else f"t{i}" for i in range(rows)}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("shards", [1, 4])
def test_batches_of_every_kind_stay_as_they_came(
    tmp_path: Path, shuffle: bool, shards: int
) -> None:
    files = write(tmp_path, every_kind(200))
    chosen: dict[str, Any] = {
        "rows_per_batch": 8,
        "canonical_shards": shards,
        "shuffle_window_rows": 8,
    }
    with Stream(files, EVERY_KIND, shuffle=shuffle, **chosen) as stream:
        kept = [(batch, copied(batch)) for epoch in (0, 1) for batch in stream.epoch(epoch)]
    assert all(same_batch(batch, as_it_came) for batch, as_it_came in kept)
    assert_every_kind([batch for batch, _ in kept[:25]], 200)
    assert_every_kind([batch for batch, _ in kept[25:]], 200)


@pytest.mark.parametrize("window", [16, 48, 1000])
def test_every_kind_is_the_same_for_any_number_of_ranks_and_when_resumed(
    tmp_path: Path, window: int
) -> None:
    files = write(tmp_path, every_kind(150))
    chosen: dict[str, Any] = {"rows_per_batch": 16, "shuffle_window_rows": window, "seed": 5}
    expected = epoch(files, EVERY_KIND, epoch=1, **chosen)
    assert_every_kind(expected, 150)
    with Stream(files, EVERY_KIND, **chosen) as stream:
        batches = stream.epoch(1)
        for _ in range(4):
            next(batches)
        state = stream.state_dict()
    for world_size in (1, 2, 4):
        for first, resume in ((0, False), (4, True)):
            ranks = []
            for rank in range(world_size):
                with Stream(files, EVERY_KIND, rank=rank, world_size=world_size, **chosen) as part:
                    if resume:
                        part.load_state_dict(state)
                    ranks.append(list(part.epoch(1)))
            for step, parts in zip(expected[first:], zip(*ranks, strict=True), strict=True):
                assert_joined(step, parts)


def assert_joined(step: Batch, parts: Sequence[Batch]) -> None:
    """The ranks' batches one after the other are the global step's."""
    assert [part.step for part in parts] == [step.step] * len(parts)
    assert sum(part.rows for part in parts) == step.rows
    for name, tensor in step.tensors.items():
        pieces = [part.tensors[name] for part in parts]
        if name in step.lengths:
            joined_lengths = torch.cat([part.lengths[name] for part in parts])
            assert torch.equal(joined_lengths, step.lengths[name])
            width = tensor.shape[1]
            assert width == max(piece.shape[1] for piece in pieces)
            pieces = [
                torch.nn.functional.pad(piece, (0, width - piece.shape[1]), value=-1)
                for piece in pieces
            ]
        assert torch.equal(torch.cat(pieces), tensor)
    for name, text in step.strings.items():
        assert [row for part in parts for row in part.strings[name]] == text.tolist()


def test_wide_rows_shorten_the_window_and_the_order_stays_the_same_for_any_ranks(
    tmp_path: Path,
) -> None:
    values = np.arange(200)[:, None] + np.zeros((1, 256), np.int64)
    columns = {
        "image": lists(values % 200, LIST_TYPES["list"]).cast(pa.list_(pa.uint8())),
        "long": pa.array(["x" * 1000 for _ in values]),
    }
    files = write(tmp_path, columns)
    image = {"image": TensorColumn(column="image", shape=(256,))}
    # 8 bytes of id and 256 of image a row; 16 rows a step; so 3 steps fit.
    chosen: dict[str, Any] = {"rows_per_batch": 16, "shuffle_window_bytes": 3 * 16 * 264 + 100}
    layout = BatchLayout(scalars=ID, tensors=image)
    with Stream(files, layout, **chosen) as stream:
        assert stream.shuffle_window_rows == 48
    with Stream(files, layout, **chosen, shuffle_window_rows=32) as stream:
        assert stream.shuffle_window_rows == 32
    with Stream(files, layout, **{**chosen, "shuffle_window_bytes": 1}) as stream:
        assert stream.shuffle_window_rows == 16
    with Stream(files, BatchLayout(scalars=ID, tensors=image, strings=("long",)), **chosen) as s:
        assert s.shuffle_window_rows == 16
    expected = [b.tensors["id"].tolist() for b in epoch(files, layout, **chosen)]
    assert Counter(i for step in expected for i in step) == Counter(range(200))
    assert expected != [b.tensors["id"].tolist() for b in epoch(files, layout)]
    for world_size in (2, 4, 8):
        ranks = [
            epoch(files, layout, rank=rank, world_size=world_size, **chosen)
            for rank in range(world_size)
        ]
        for step, parts in zip(expected, zip(*ranks, strict=True), strict=True):
            assert [i for part in parts for i in part.tensors["id"].tolist()] == step


def test_rows_per_rank_batch_is_rows_per_batch_over_the_ranks(tmp_path: Path) -> None:
    files = write(tmp_path, every_kind(70))
    for rank in range(2):
        each = epoch(
            files, EVERY_KIND, rows_per_batch=None, rows_per_rank_batch=8, rank=rank, world_size=2
        )
        whole = epoch(files, EVERY_KIND, rows_per_batch=16, rank=rank, world_size=2)
        assert len(each) == len(whole) == 5
        assert all(map(same_batch, each, whole))
        assert each[0].rows == 8


@pytest.mark.parametrize(
    "given_rows", [{}, {"rows_per_batch": 8, "rows_per_rank_batch": 8}, {"rows_per_rank_batch": 0}]
)
def test_rows_a_step_are_given_once(tmp_path: Path, given_rows: dict[str, Any]) -> None:
    files = write(tmp_path, {"x": pa.array([1.0])})
    with pytest.raises(PlanError, match="rows_per_batch"):
        Stream(files, BatchLayout(scalars=ID), **given_rows)


# --- any layout -----------------------------------------------------------------------------------

arrow_numbers = st.sampled_from(list(NUMBERS))
KINDS = ("scalar", "matrix", "image", "extension", "raw", "png", "sequence", "string")


def drawn_column(  # noqa: PLR0911 - one for each kind
    data: st.DataObject, kind: str, rng: np.random.Generator, rows: int
):
    """An Arrow column for a kind, the part of the layout it goes to, and what is asked for."""
    arrow = data.draw(arrow_numbers)
    list_type = LIST_TYPES[data.draw(st.sampled_from(list(LIST_TYPES)))]
    if kind in {"scalar", "matrix"}:
        wide = kind == "matrix" and data.draw(st.booleans())
        values = numbers(rng, arrow, (rows, data.draw(st.integers(1, 4))) if wide else (rows,))
        return lists(values, list_type), None
    if kind == "string":
        words = [None, "", "a", "ünï", "long " * 20]
        text = data.draw(st.sampled_from([pa.string(), pa.large_string()]))
        return pa.array([words[i] for i in rng.integers(0, len(words), rows)], text), None
    if kind == "sequence":
        lengths = rng.integers(0, data.draw(st.integers(1, 6)), rows)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        values = pa.array(numbers(rng, arrow, (int(lengths.sum()),)), arrow)
        column = pa.ListArray.from_arrays(offsets, values)
        return column.cast(pa.large_list(arrow)) if data.draw(st.booleans()) else column, None
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    if kind == "png":
        return drawn_png(rng, rows)
    values = numbers(rng, arrow, (rows, *shape))
    if kind == "extension":
        # Arrow has no tensors of booleans.
        values = values.astype(np.uint8) if pa.types.is_boolean(arrow) else values
        return tensor_extension(values), TensorColumn(column="", shape=shape)
    if kind == "raw":
        codec = RawCodec(shape=shape, dtype=values.dtype)
        column = pa.array([row.astype(row.dtype.newbyteorder("<")).tobytes() for row in values])
        return column.cast(pa.binary()), TensorColumn(column="", shape=shape, codec=codec)
    flat = data.draw(st.booleans())
    column = lists(values.reshape(rows, math.prod(shape)) if flat else values, list_type)
    return column, TensorColumn(column="", shape=shape)


def drawn_png(rng: np.random.Generator, rows: int) -> tuple[pa.Array, TensorColumn]:
    import cv2

    images = rng.integers(0, 256, (rows, 2, 3), np.uint8)
    column = pa.array([cv2.imencode(".png", row)[1].tobytes() for row in images], pa.binary())
    return column, TensorColumn(column="", shape=(2, 3), codec=ImageCodec(shape=(2, 3)))


def oracle(stored: Any, asked: TensorColumn | None) -> Any:
    """What a stored value means, by pyarrow, NumPy and OpenCV alone."""
    import cv2

    if asked is not None and isinstance(asked.codec, RawCodec):
        return np.frombuffer(stored, asked.codec.dtype).reshape(asked.shape)
    if asked is not None and asked.codec is not None:
        return cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.reshape(stored, asked.shape) if asked is not None else stored


def drawn_files(
    folder: Path, table: pa.Table, sizes: list[list[int]], data: st.DataObject
) -> list[str]:
    """Writes a file for each inner list, with row groups of these sizes."""
    files, next_row = [], 0
    how = {
        "use_dictionary": data.draw(st.booleans()),
        "data_page_version": data.draw(st.sampled_from(["1.0", "2.0"])),
        "compression": data.draw(st.sampled_from(["none", "snappy", "zstd"])),
        "data_page_size": data.draw(st.sampled_from([64, 2**20])),
    }
    if how["data_page_version"] == "2.0":
        # pyarrow 25 writes lists in pages of so few bytes that it reads no row of them.
        how["data_page_size"] = 2**20
    for number, groups in enumerate(sizes):
        files.append(str(folder / f"part-{number}.parquet"))
        with pq.ParquetWriter(files[-1], table.schema, **how) as writer:
            for rows in groups:
                writer.write_table(table.slice(next_row, rows))
                next_row += rows
    return files


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5),
    sizes=st.lists(st.lists(st.integers(0, 25), max_size=4), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_every_row_of_any_layout_is_what_pyarrow_reads(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[str],
    sizes: list[list[int]],
    seed: int,
    data: st.DataObject,
) -> None:
    rng = np.random.default_rng(seed)
    rows = sum(map(sum, sizes))
    columns: dict[str, pa.Array] = {"id": pa.array(range(rows), pa.int64())}
    parts: dict[str, Any] = {"tensors": {}, "sequences": {}, "matrices": {}}
    scalars, strings = {"id": "id"}, []
    asked_of: dict[str, TensorColumn | None] = {}
    for number, kind in enumerate(kinds):
        name = f"{kind}_{number}"
        columns[name], asked = drawn_column(data, kind, rng, rows)
        if asked is not None:
            asked = TensorColumn(column=name, shape=asked.shape, codec=asked.codec)
            parts["tensors"][name] = asked
        elif kind == "string":
            strings.append(name)
        elif kind == "sequence":
            parts["sequences"][name] = SequenceColumn(column=name)
        elif kind == "matrix":
            parts["matrices"][name] = (name,)
        else:
            scalars[name] = name
        asked_of[name] = asked
    layout = BatchLayout(scalars=scalars, strings=strings, **parts)
    table = pa.table(columns)
    nullable = data.draw(st.booleans())
    table = table.cast(
        pa.schema(
            [
                field if field.name in strings else field.with_nullable(nullable)
                for field in table.schema
            ]
        )
    )
    files = drawn_files(tmp_path_factory.mktemp("any"), table, sizes, data)
    chosen = {
        "rows_per_batch": data.draw(st.sampled_from([1, 3, 8, 24])),
        "shuffle": data.draw(st.booleans()),
        "shuffle_window_rows": data.draw(st.integers(1, 100)),
        "workers_count": data.draw(st.integers(1, 3)),
    }
    batches = epoch(files, layout, **chosen)
    read = pa.concat_tables([pq.read_table(file) for file in files])
    for name, asked in asked_of.items():
        stored = read.column(name).to_pylist()
        if name in strings:
            assert by_id(batches, name) == dict(enumerate(stored))
        elif name.startswith("matrix"):
            assert_rows(batches, name, [np.atleast_1d(np.asarray(row)) for row in stored])
        else:
            assert_rows(batches, name, [oracle(row, asked) for row in stored])
