"""Codecs: what turns the stored bytes of a column into arrays, independent of Petastorm's reader.

    RawCodec     the array's own bytes, decoded without a loop
    ArrayCodec   what `numpy.save` or `numpy.savez_compressed` wrote
    ImageCodec   PNG or JPEG

Arrays and images are decoded by Petastorm's own codec classes, so that its data sets and plain
Parquet columns go one way. Nothing here unpickles: arrays of objects are refused.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import EnvironmentFault, NullValueError, PlanError, RowGroupError, SchemaError

Shape = tuple[int | None, ...]
"""The shape of a row's array; None where it varies from row to row."""

Rows = npt.NDArray[Any] | list[npt.NDArray[Any]]
"""Decoded rows: [rows, *shape] where the shape is fixed, else one array a row."""

_DENSE_KINDS = "biuf"
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)

# OpenCV tries some twenty formats on whatever it is given; a column holds one.
_MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}


def _petastorm() -> ModuleType:
    """Petastorm's codecs: half a second to import, and few tables need one."""
    return import_module("petastorm.codecs")


class Codec(Protocol):
    """Decodes one column; compared by value."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every decoded array."""

    @property
    def shape(self) -> Shape:
        """The shape of a row's array."""

    def decode(self, values: pa.Array, where: str) -> Rows:
        """Decodes a column's values.

        Args:
            values: The stored values; rows in errors count from its first.
            where: File, row group and column, for errors.

        Returns:
            [rows, *shape] where the shape is fixed, else a list of one array a row.

        Raises:
            NullValueError: A value is null.
            RowGroupError: A value's bytes cannot be decoded.
            SchemaError: A value has another shape or dtype than the codec's.
        """

    def describe(self) -> str:
        """Returns a text that is equal for equal codecs, in every process and version."""


@dataclass(frozen=True, kw_only=True)
class _ShapedCodec(ABC):
    """What all codecs share: shape and dtype, checked once."""

    shape: Shape
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        name = type(self).__name__
        # The dtype of arrays that are decoded here is that of the machine, whatever is stored.
        object.__setattr__(self, "dtype", np.dtype(self.dtype).newbyteorder("="))
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.dtype.kind not in _DENSE_KINDS:
            raise PlanError(
                f"{name}.dtype", f"{self.dtype}", "Use a boolean, integer or float dtype."
            )
        if any(size is not None and size < 1 for size in self.shape):
            raise PlanError(f"{name}.shape", f"{self.shape}", "Use sizes of 1 or more, or None.")

    @property
    @abstractmethod
    def _encoding(self) -> str:
        """How the values are stored, in a word."""

    def describe(self) -> str:
        """See `Codec.describe`."""
        # Not str(shape): a NumPy integer in it would read differently, and be equal.
        sizes = ",".join("*" if size is None else str(int(size)) for size in self.shape)
        return f"{self._encoding} {self.dtype.name} [{sizes}]"


@dataclass(frozen=True, kw_only=True)
class _RowCodec(_ShapedCodec):
    """A codec that decodes row by row."""

    @abstractmethod
    def _decode_row(self, value: pa.Buffer) -> Any:
        """Returns what Petastorm's codec makes of a value; may raise anything."""

    def decode(self, values: pa.Array, where: str) -> Rows:
        """See `Codec.decode`."""
        _check_stored(values, where)
        arrays = self._decode_each(values, where)
        sizes = [size for size in self.shape if size is not None]
        if len(sizes) < len(self.shape):
            return list(arrays)
        # Straight into its place: stacking a list would hold every image twice.
        rows = np.empty((len(values), *sizes), self.dtype)
        for number, array in enumerate(arrays):
            rows[number] = array
        return rows

    def _decode_each(self, values: pa.Array, where: str) -> Iterator[npt.NDArray[Any]]:
        for number, value in enumerate(values):
            try:
                array = self._decode_row(value.as_buffer())
            except Exception as error:
                raise RowGroupError(
                    f"{where}, row {number}",
                    f"cannot be decoded as {self.describe()} ({type(error).__name__}: {error})",
                    "Write the row anew, or leave the column out.",
                ) from error
            yield self._checked(array, f"{where}, row {number}")

    def _checked(self, found: Any, where: str) -> npt.NDArray[Any]:
        if not isinstance(found, np.ndarray):
            problem = f"a {type(found).__name__}, not an array"
            raise RowGroupError(where, problem, "Name the codec it was written by.")
        # By type, not dtype: an array that was saved on a machine of the other byte order fits.
        if found.dtype.type is not self.dtype.type or not _fits(found.shape, self.shape):
            raise SchemaError(
                where,
                f"{found.dtype.name} {list(found.shape)}, but the column is {self.describe()}",
                "Name the shape and dtype it was written with; None stands for a size that varies.",
            )
        return found.astype(self.dtype, copy=False)


@dataclass(frozen=True, kw_only=True)
class ArrayCodec(_RowCodec):
    """Arrays as `numpy.save` stores them; Petastorm's NdarrayCodec and CompressedNdarrayCodec."""

    compressed: bool = False
    """Whether they were written by `numpy.savez_compressed`, under the name `arr`."""

    @property
    def _encoding(self) -> str:
        return "npz" if self.compressed else "npy"

    def _decode_row(self, value: pa.Buffer) -> Any:
        # Both call numpy.load without allow_pickle.
        if self.compressed:
            return _petastorm().CompressedNdarrayCodec().decode(None, value)
        return _petastorm().NdarrayCodec().decode(None, value)


@dataclass(frozen=True, kw_only=True)
class ImageCodec(_RowCodec):
    """PNG or JPEG images: grey [height, width], or [height, width, 3] in the order RGB.

    Needs OpenCV, the extra `images`.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)  # noqa: RUF009 - immutable
    """uint8, or uint16 for PNG of 16 bits."""

    format: str = "png"
    """`png` or `jpeg`."""

    _formats: ClassVar = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in self._formats:
            raise PlanError("ImageCodec.format", repr(self.format), "Use `png` or `jpeg`.")
        object.__setattr__(self, "format", self._formats[self.format])
        # Told when the stream is opened, not by a worker in the middle of an epoch.
        if not _petastorm().OPENCV_AVAILABLE:
            raise EnvironmentFault(
                "ImageCodec",
                "OpenCV (cv2) cannot be imported",
                "Install the extra `images`: pip install 'lakestorm[images]'",
            )

    @property
    def _encoding(self) -> str:
        return self.format

    def _decode_row(self, value: pa.Buffer) -> Any:
        magic = _MAGIC[self.format]
        if value[: len(magic)].to_pybytes() != magic:
            raise ValueError(f"{value.size} bytes that do not begin like {self.format}")
        codec = _petastorm().CompressedImageCodec(self.format)
        return codec.decode(None, value)


@dataclass(frozen=True, kw_only=True)
class RawCodec(_ShapedCodec):
    """Arrays as their bytes, little-endian and in C order; at most one size may vary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape.count(None) > 1:
            raise PlanError(
                "RawCodec.shape",
                f"{self.shape}: more than one size that varies",
                "Bytes alone do not tell them; store such arrays with numpy.save (ArrayCodec).",
            )

    @property
    def _encoding(self) -> str:
        return "raw"

    def decode(self, values: pa.Array, where: str) -> Rows:
        """See `Codec.decode`; where the shape is fixed, the array is Arrow's own buffer."""
        _check_stored(values, where)
        offsets = _offsets(values)
        self._check_lengths(np.diff(offsets), where)
        stored = np.frombuffer(
            values.buffers()[-1] or b"",
            np.uint8,
            count=int(offsets[-1] - offsets[0]),
            offset=int(offsets[0]),
        )
        if None not in self.shape:
            # [rows * bytes a row] -> [rows, *shape]
            return self._view(stored, (len(values), *self.shape))
        bounds = offsets - offsets[0]
        shape = tuple(-1 if size is None else size for size in self.shape)
        return [self._view(stored[i:j], shape) for i, j in itertools.pairwise(bounds)]

    @property
    def _step_bytes(self) -> int:
        """The bytes of a row, or, where a size varies, those of one step along it."""
        return self.dtype.itemsize * math.prod(size for size in self.shape if size is not None)

    def _check_lengths(self, lengths: npt.NDArray[Any], where: str) -> None:
        step = self._step_bytes
        wrong = lengths % step != 0 if None in self.shape else lengths != step
        if wrong.any():
            number = int(np.argmax(wrong))
            raise SchemaError(
                f"{where}, row {number}",
                f"{lengths[number]} bytes, but {self.describe()} takes "
                f"{'multiples of ' if None in self.shape else ''}{step}",
                "Name the shape and dtype it was written with.",
            )

    def _view(self, stored: npt.NDArray[np.uint8], shape: Sequence[Any]) -> npt.NDArray[Any]:
        array = stored.view(self.dtype.newbyteorder("<"))
        # Arrow's bytes may begin anywhere, also in the middle of what is a word to torch.
        return np.require(array.reshape(shape).astype(self.dtype, copy=False), requirements="A")


def _fits(found: tuple[int, ...], wanted: Shape) -> bool:
    sizes = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(n is None or n == size for size, n in sizes)


def _check_stored(values: pa.Array, where: str) -> None:
    """Refuses what is not binary, and nulls."""
    if not any(is_of(values.type) for is_of in _BINARY):
        raise SchemaError(
            where, f"of type {values.type}, not binary", "Leave out the codec, or name its column."
        )
    if values.null_count:
        first = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise NullValueError(
            f"{where}, row {first}",
            f"{values.null_count} of {len(values)} values are null",
            "Fill them, with an indicator column, when the table is written.",
        )


def _offsets(values: pa.Array) -> npt.NDArray[np.int64]:
    """Returns where each value begins in the last buffer, and where the last one ends."""
    count, first = len(values), values.offset
    if pa.types.is_fixed_size_binary(values.type):
        return np.arange(first, first + count + 1, dtype=np.int64) * int(values.type.byte_width)
    width = np.int64 if pa.types.is_large_binary(values.type) else np.int32
    if count == 0:  # Arrow may then have no offsets at all
        return np.zeros(1, np.int64)
    start_bytes = first * np.dtype(width).itemsize
    offsets = np.frombuffer(values.buffers()[1], width, count + 1, start_bytes)
    return offsets.astype(np.int64, copy=False)
