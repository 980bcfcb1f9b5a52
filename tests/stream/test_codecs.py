from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import petastorm.codecs
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from petastorm.unischema import UnischemaField

from pipeline.errors import EnvironmentFault, NullValueError, PlanError, RowGroupError, SchemaError
from pipeline.stream.codecs import ArrayCodec, ImageCodec, RawCodec

WHERE = "part.parquet, row group 0, column 'x'"
DTYPES = [np.dtype(name) for name in ("bool", "u1", "i2", "u2", "i4", "i8", "f2", "f4", "f8")]


def saved(array: Any, compressed: bool = False, **settings: Any) -> bytes:
    file = io.BytesIO()
    if compressed:
        np.savez_compressed(file, arr=array)
    else:
        np.save(file, array, **settings)
    return file.getvalue()


def encoded(image: Any, format: str = "png") -> bytes:  # noqa: A002
    """As Petastorm writes an image; RGB."""
    codec = petastorm.codecs.CompressedImageCodec(format)
    return bytes(codec.encode(UnischemaField("x", image.dtype, image.shape), image))


def binary(values: Sequence[bytes | None], kind: Any = None) -> pa.Array:
    return pa.array(values, kind or pa.binary())


def image(height: int, width: int, *channels: int, dtype: str = "u1") -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(np.iinfo(dtype).max, size=(height, width, *channels)).astype(dtype)


@st.composite
def batches(draw: st.DrawFn) -> np.ndarray:
    """Rows of any dense dtype and shape: [rows, *shape]."""
    rows, shape = draw(st.integers(0, 6)), draw(array_shapes(min_dims=0, max_dims=3, max_side=4))
    drawn: np.ndarray = draw(arrays(draw(st.sampled_from(DTYPES)), (rows, *shape)))
    return drawn


@given(batches(), st.sampled_from(["binary", "large", "fixed"]), st.data())
def test_raw_bytes_come_back_from_any_slice(
    rows: np.ndarray, storage: str, data: st.DataObject
) -> None:
    codec = RawCodec(shape=rows.shape[1:], dtype=rows.dtype)
    width = rows[:0].itemsize * int(np.prod(rows.shape[1:]))
    kinds = {"binary": pa.binary(), "large": pa.large_binary(), "fixed": pa.binary(width)}
    values = binary([row.tobytes() for row in rows], kinds[storage])
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    found = codec.decode(values.slice(start, stop - start), WHERE)
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (rows.dtype, rows[start:stop].shape)
    np.testing.assert_array_equal(found, rows[start:stop])


@given(st.lists(st.integers(0, 5), max_size=6), st.sampled_from(DTYPES), st.data())
def test_raw_bytes_of_varying_length_come_back_row_by_row(
    lengths: list[int], dtype: np.dtype[Any], data: st.DataObject
) -> None:
    rows = [np.arange(3 * n).reshape(3, n).astype(dtype) for n in lengths]
    start = data.draw(st.integers(0, len(rows)))
    values = binary([row.tobytes() for row in rows]).slice(start)
    found = RawCodec(shape=(3, None), dtype=dtype).decode(values, WHERE)
    assert isinstance(found, list)
    for array, row in zip(found, rows[start:], strict=True):
        assert array.dtype == dtype
        assert array.flags.aligned
        np.testing.assert_array_equal(array, row)


def test_raw_bytes_of_fixed_shape_are_not_copied() -> None:
    values = binary([np.arange(4, dtype="f4").tobytes()] * 3)
    found = RawCodec(shape=(2, 2), dtype=np.dtype("f4")).decode(values, WHERE)
    assert isinstance(found, np.ndarray)
    assert found.ctypes.data == values.buffers()[2].address


@pytest.mark.parametrize("shape", [(2,), (None,)])
def test_raw_bytes_that_begin_in_the_middle_of_a_word_are_aligned(shape: Any) -> None:
    rows = np.arange(6, dtype="f8").reshape(3, 2)
    offsets = pa.py_buffer(np.array([1, 17, 33, 49], np.int32))
    data = pa.py_buffer(b"-" + rows.tobytes())
    values = pa.Array.from_buffers(pa.binary(), 3, [None, offsets, data])
    found = RawCodec(shape=shape, dtype=np.dtype("f8")).decode(values, WHERE)
    np.testing.assert_array_equal(np.stack(list(found)), rows)
    assert all(array.flags.aligned for array in found)


def test_raw_bytes_are_little_endian() -> None:
    codec = RawCodec(shape=(), dtype=np.dtype(">u2"))
    assert codec.decode(binary([b"\x01\x02"]), WHERE)[0] == 0x0201


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_raw_bytes_of_another_length_name_the_row(kind: pa.DataType) -> None:
    values = binary([b"12345678", b"12345678", b"1234567"], kind).slice(1)
    with pytest.raises(SchemaError, match=r"'x', row 1: 7 bytes, but raw float32 \[2\] takes 8"):
        RawCodec(shape=(2,), dtype=np.dtype("f4")).decode(values, WHERE)
    with pytest.raises(SchemaError, match=r"row 1: 7 bytes, but .* takes multiples of 8"):
        RawCodec(shape=(None, 2), dtype=np.dtype("f4")).decode(values, WHERE)


@given(batches(), st.booleans())
def test_saved_arrays_come_back(rows: np.ndarray, compressed: bool) -> None:
    codec = ArrayCodec(shape=rows.shape[1:], dtype=rows.dtype, compressed=compressed)
    found = codec.decode(binary([saved(row, compressed) for row in rows]), WHERE)
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (rows.dtype, rows.shape)
    np.testing.assert_array_equal(found, rows)


def test_saved_arrays_of_another_layout_and_byte_order_come_back() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    values = binary([saved(np.asfortranarray(array))])
    fixed = ArrayCodec(shape=(2, 3), dtype=np.dtype("f4")).decode(values, WHERE)
    varying = ArrayCodec(shape=(None, 3), dtype=np.dtype("f4")).decode(values, WHERE)
    for found in (fixed[0], varying[0]):
        assert found.dtype == np.dtype("f4")
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_png_images_come_back(dtype: str, channels: tuple[int, ...]) -> None:
    images = [image(5, 4, *channels, dtype=dtype), np.zeros((5, 4, *channels), dtype)]
    codec = ImageCodec(format="png", shape=(5, 4, *channels), dtype=np.dtype(dtype))
    found = codec.decode(binary([encoded(one) for one in images]), WHERE)
    np.testing.assert_array_equal(found, np.stack(images))


def test_images_are_rgb_as_other_programs_wrote_them() -> None:
    blue_green_red = np.zeros((8, 8, 3), np.uint8)
    blue_green_red[:, :, 2] = 255
    for format, ending in (("png", ".png"), ("jpeg", ".jpg")):  # noqa: A001
        stored = cv2.imencode(ending, blue_green_red)[1].tobytes()
        found = ImageCodec(format=format, shape=(None, None, 3)).decode(binary([stored]), WHERE)
        red, green, blue = found[0][4, 4]
        assert red > 250, format
        assert max(green, blue) < 5, format


def test_jpegs_of_any_size_are_what_petastorm_decodes() -> None:
    values = [encoded(image(8, 9, 3), "jpeg"), encoded(image(16, 3, 3), "jpeg")]
    found = ImageCodec(format="jpeg", shape=(None, None, 3)).decode(binary(values), WHERE)
    assert isinstance(found, list)
    for array, value in zip(found, values, strict=True):
        expected = petastorm.codecs.CompressedImageCodec("jpeg").decode(None, value)
        np.testing.assert_array_equal(array, expected)


PNG = ImageCodec(format="png", shape=(4, 4, 3))
JPEG = ImageCodec(format="jpeg", shape=(4, 4, 3))
NPY = ArrayCodec(shape=(2,), dtype=np.dtype("f4"))
NPZ = ArrayCodec(shape=(2,), dtype=np.dtype("f4"), compressed=True)
RAW = RawCodec(shape=(2,), dtype=np.dtype("f4"))
GOOD = {
    PNG: encoded(image(4, 4, 3)),
    JPEG: encoded(image(4, 4, 3), "jpeg"),
    NPY: saved(np.zeros(2, "f4")),
    NPZ: saved(np.zeros(2, "f4"), compressed=True),
    RAW: bytes(8),
}


@pytest.mark.parametrize("codec", GOOD, ids=repr)
def test_a_null_names_column_and_row(codec: Any) -> None:
    values = binary([GOOD[codec], None, GOOD[codec], None])
    with pytest.raises(NullValueError, match="column 'x', row 1: 2 of 4 values are null"):
        codec.decode(values, WHERE)
    assert len(codec.decode(values.slice(2, 1), WHERE)) == 1


@pytest.mark.parametrize("codec", GOOD, ids=repr)
def test_a_column_that_is_not_binary_is_refused(codec: Any) -> None:
    with pytest.raises(SchemaError, match="column 'x': of type int64, not binary"):
        codec.decode(pa.array([1, 2]), WHERE)


@pytest.mark.parametrize("codec", GOOD, ids=repr)
@pytest.mark.parametrize("rows", [0, 1])
def test_the_empty_and_the_chunked_are_decoded(codec: Any, rows: int) -> None:
    found = codec.decode(binary([GOOD[codec]] * rows), WHERE)
    assert found.shape == (rows, *codec.shape)
    assert found.dtype == codec.dtype


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (PNG, b""),
        (PNG, b"no image"),
        (PNG, GOOD[PNG][:40]),
        (PNG, encoded(image(4, 4, 3), "jpeg")),
        (JPEG, encoded(image(4, 4, 3), "jpeg")[:-2]),
        (PNG, cv2.imencode(".png", image(4, 4, 4))[1].tobytes()),  # with transparency
        (NPY, b""),
        (NPY, b"no array"),
        (NPY, GOOD[NPY][:-1]),
        (NPY, GOOD[NPZ]),
        (NPZ, GOOD[NPY]),
        (NPZ, GOOD[NPZ][:50]),
    ],
)
def test_bytes_that_cannot_be_decoded_name_the_row(codec: Any, value: bytes) -> None:
    with pytest.raises(RowGroupError, match="column 'x', row 1: "):
        codec.decode(binary([GOOD[codec], value]), WHERE)


@pytest.mark.parametrize(
    ("codec", "value", "found"),
    [
        (PNG, encoded(image(4, 5, 3)), r"uint8 \[4, 5, 3\], but the column is png uint8 \[4,4,3\]"),
        (PNG, encoded(image(4, 4)), r"uint8 \[4, 4\]"),
        (PNG, encoded(image(4, 4, 3, dtype="u2")), "uint16"),
        (NPY, saved(np.zeros(2, "f8")), "float64"),
        (NPY, saved(np.zeros((2, 1), "f4")), r"float32 \[2, 1\]"),
        (NPZ, saved(np.zeros(3, "f4"), compressed=True), r"float32 \[3\]"),
    ],
)
def test_another_shape_or_dtype_names_the_row(codec: Any, value: bytes, found: str) -> None:
    with pytest.raises(SchemaError, match=f"column 'x', row 1: {found}"):
        codec.decode(binary([GOOD[codec], value]), WHERE)


class _Marks:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_of_objects_are_refused_and_run_nothing(tmp_path: Path, compressed: bool) -> None:
    marker = tmp_path / "ran"
    value = saved(np.array([_Marks(marker)], object), compressed)
    with pytest.raises(RowGroupError, match=r"row 0.*allow_pickle=False"):
        ArrayCodec(shape=(1,), dtype=np.dtype("f4"), compressed=compressed).decode(
            binary([value]), WHERE
        )
    assert not marker.exists()


def test_without_opencv_an_image_codec_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(petastorm.codecs, "OPENCV_AVAILABLE", False)
    with pytest.raises(EnvironmentFault, match=r"pip install 'lakestorm\[images\]'"):
        ImageCodec(shape=(4, 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RawCodec(shape=(2,), dtype=np.dtype("O")),
        lambda: ArrayCodec(shape=(2,), dtype=np.dtype("c8")),
        lambda: RawCodec(shape=(0,), dtype=np.dtype("f4")),
        lambda: RawCodec(shape=(None, None), dtype=np.dtype("f4")),
        lambda: ImageCodec(shape=(2, 2), format="bmp"),
    ],
)
def test_a_codec_that_makes_no_tensor_is_refused_when_made(make: Any) -> None:
    with pytest.raises(PlanError, match="Codec"):
        make()


def test_equal_codecs_are_equal_and_described_alike() -> None:
    same: list[Any] = [
        ImageCodec(shape=[np.int64(4), 4, 3], dtype=np.uint8),  # type: ignore[arg-type]
        replace(PNG),
        PNG,
    ]
    assert set(same) == {PNG}
    assert {codec.describe() for codec in same} == {"png uint8 [4,4,3]"}
    assert ImageCodec(shape=(2, 2), format="jpg") == ImageCodec(shape=(2, 2), format="jpeg")
    assert ArrayCodec(shape=(None,), dtype=np.dtype(">f4")).describe() == "npy float32 [*]"


def test_different_codecs_differ_in_what_they_say() -> None:
    others = [
        ImageCodec(shape=(None, 4, 3)),
        ImageCodec(shape=(4, 4, 3), dtype=np.dtype("u2")),
        ArrayCodec(shape=(), dtype=np.dtype("f4")),
    ]
    codecs = [*GOOD, *others]
    assert len({codec.describe() for codec in codecs}) == len(set(codecs)) == len(codecs)
