"""What Petastorm sees as `numpy`: today's, with the names that NumPy 1.24, 2.0 and 2.4 removed.

Its `load` lets several threads load arrays at once. NumPy parses an array's header by `ast`, and
before Python 3.11.8 and 3.12.1 two threads that do so may fail with a SystemError, `AST constructor
recursion depth mismatch`. See: https://github.com/python/cpython/issues/106905
"""

from __future__ import annotations

import builtins
import threading
from io import BytesIO
from typing import IO, Any, cast
from zipfile import ZipFile

import numpy
from numpy.lib.npyio import NpzFile

# Copied rather than looked up through __getattr__: Petastorm's decode_row asks for `np.generic`
# once a field and row.
globals().update({name: value for name, value in vars(numpy).items() if name[:2] != "__"})

unicode_ = numpy.str_
string_ = numpy.bytes_
float = builtins.float  # noqa: A001 - the name is the point
in1d = numpy.isin

# Reentrant: the garbage collector may run anybody's finalizer within.
_parsing_header = threading.RLock()


class _Archive:
    """The arrays of an `.npz` file, each loaded when asked for."""

    def __init__(self, found: NpzFile) -> None:
        self._found = found

    def __getitem__(self, name: str) -> numpy.ndarray[Any, Any]:
        # Decompressed outside the lock: this is what takes long.
        stored = cast("ZipFile", self._found.zip).read(f"{name}.npy")
        with _parsing_header:
            array: numpy.ndarray[Any, Any] = numpy.load(BytesIO(stored))
        return array


def load(file: IO[bytes]) -> numpy.ndarray[Any, Any] | _Archive:
    """`numpy.load`, safe in several threads; refuses pickles as it does."""
    with _parsing_header:
        found = numpy.load(file)
    return _Archive(found) if isinstance(found, NpzFile) else found


def __getattr__(name: str) -> Any:
    return getattr(numpy, name)
