"""How a decoded row group lies in a file: a JSON header and plain buffers; nothing is pickled."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Block = dict[str, npt.NDArray[Any] | pa.Array]
"""Column -> its rows: a dense array [rows, ...], or an Arrow array of strings or lists."""

# Magic with the format's version, checksum of all that follows it, bytes of the JSON header.
_PREFIX = struct.Struct("<8sII")
_MAGIC = b"LSBLOCK1"
_UNCHECKED_BYTES = 12  # magic and checksum
_ALIGNMENT_BYTES = 64
_KINDS = "biufcmMSUV"  # the NumPy kinds whose values are plain bytes

Part = bytes | memoryview
"""A piece of a file, in the order of writing."""


def to_parts(key: str, block: Block) -> list[Part]:
    """Returns the bytes of an entry in pieces, without copying dense arrays that lie in order.

    Prefix, JSON header, then each array from a multiple of 64 bytes on: a dense one as its memory
    in the byte order that its dtype names, an Arrow one as an IPC stream.

    Raises:
        TypeError: An array is of a type that is no plain bytes, such as Python objects.
    """
    payload: list[Part] = []
    columns, offset = [], 0
    for name, array in block.items():
        data, about = (
            _dense_part(name, array) if isinstance(array, np.ndarray) else _arrow_part(name, array)
        )
        columns.append({"name": name, "offset": offset, "bytes": len(data), **about})
        payload += [data, _padding(len(data))]
        offset += len(data) + len(payload[-1])
    header = json.dumps({"key": key, "columns": columns}).encode()
    body = [struct.pack("<I", len(header)), header, _padding(_PREFIX.size + len(header)), *payload]
    checksum = 0
    for part in body:
        checksum = zlib.crc32(part, checksum)
    return [_MAGIC + struct.pack("<I", checksum), *body]


def from_buffer(key: str, buffer: pa.Buffer) -> Block:
    """Makes the block of an entry's bytes; its arrays are views of them.

    Raises:
        Exception: Of whatever type, when the bytes are not those that were written for this key.
    """
    view = memoryview(buffer).cast("B").toreadonly()
    magic, checksum, header_bytes = _PREFIX.unpack_from(view)
    if magic != _MAGIC or zlib.crc32(view[_UNCHECKED_BYTES:]) != checksum:
        raise ValueError("its checksum is wrong")
    start = _PREFIX.size + header_bytes
    header = json.loads(bytes(view[_PREFIX.size : start]))
    if header["key"] != key:
        raise ValueError(f"it was written for the key {header['key']}")
    start += len(_padding(start))
    block: Block = {}
    for column in header["columns"]:
        first = start + column["offset"]
        data = view[first : first + column["bytes"]]
        block[column["name"]] = (
            _dense_array(data, column["dtype"], column["shape"])
            if "dtype" in column
            else _arrow_array(pa.py_buffer(data))
        )
    return block


def _dense_part(name: str, array: npt.NDArray[Any]) -> tuple[Part, dict[str, Any]]:
    dtype = array.dtype
    # A masked array would lose its mask, a structured dtype its fields.
    if type(array) is not np.ndarray or dtype.kind not in _KINDS or np.dtype(dtype.str) != dtype:
        raise TypeError(f"{name}: {type(array).__name__} of {dtype} is no plain array")
    about = {"dtype": dtype.str, "shape": array.shape}
    if not array.nbytes:
        return b"", about
    # [rows, ...] -> [bytes]
    return np.asarray(array, order="C").reshape(-1).view(np.uint8).data, about


def _dense_array(data: memoryview, name: str, shape: list[int]) -> npt.NDArray[Any]:
    dtype = np.dtype(name)
    # NumPy would take the bytes of a forged entry for pointers to Python objects.
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise ValueError(f"{dtype} is no plain dtype")
    # [bytes] -> [rows, ...]
    return np.ndarray(tuple(shape), dtype, data)


def _arrow_part(name: str, array: pa.Array) -> tuple[Part, dict[str, Any]]:
    if not isinstance(array, pa.Array):
        raise TypeError(f"{name}: {type(array).__name__} is neither a NumPy nor an Arrow array")
    batch = pa.record_batch([array], names=[""])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue()), {}


def _arrow_array(buffer: pa.Buffer) -> pa.Array:
    with pa.ipc.open_stream(buffer) as stream:
        array = stream.read_next_batch().column(0)
    # A checksum can be forged: offsets that point outside must not be followed.
    array.validate(full=True)
    return array


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _ALIGNMENT_BYTES)
