"""Data sets that Petastorm wrote: their Unischema, read without running it, and a layout of it.

Petastorm keeps a data set's schema as a pickle in `_common_metadata`, and a pickle is a program:
who can write the data set can run code where it is opened. (Petastorm's own filter lets all of
`builtins` pass, `exec` among it.) Here no name in the pickle is resolved to what it names. Each
becomes a record of the few kinds that a Unischema is made of, and of what the records then hold a
new Unischema is built.

    _common_metadata -> pickle -> records -> Unischema -> BatchLayout
"""

from __future__ import annotations

import copy
import io
import logging
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import petastorm.codecs
import pyarrow as pa
import pyarrow.parquet as pq
from petastorm.etl.dataset_metadata import UNISCHEMA_KEY
from petastorm.unischema import Unischema, UnischemaField

from pipeline.errors import LakestormError, PlanError, SchemaError, SourceError
from pipeline.stores.reading import is_remote, list_parquet, open_file
from pipeline.stream.codecs import ArrayCodec, Codec, ImageCodec
from pipeline.stream.layout import BatchLayout, SequenceColumn, TensorColumn

_log = logging.getLogger(__name__)

_NUMBERS = "biuf"
_PARTS = ("scalars", "strings", "tensors", "sequences")
_PLAIN_PARQUET = (
    "Plain Parquet is read without a Unischema: give Stream its files and a BatchLayout."
)

# The packages that Petastorm's modules were in before it had its name.
_OLD_PACKAGES = ("av.experimental.deepdrive.dataset_toolkit.", "av.ml.dataset_toolkit.")
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_OLD_NUMPY = {"unicode_": np.str_, "string_": np.bytes_, "float_": np.float64, "bool8": np.bool_}
_NUMPY_TYPES = _OLD_NUMPY | {
    name: value
    for name, value in vars(np).items()
    if isinstance(value, type) and value in set(np.sctypeDict.values())
}
_PYTHON_TYPES = {t.__name__: t for t in (bool, int, float, str, bytes)}
_PYTHON_TYPES |= {"long": int, "unicode": str}  # of Python 2
_SPARK_NUMBERS = {"BooleanType", "ByteType", "ShortType", "IntegerType", "LongType"}
_SPARK_NUMBERS |= {"FloatType", "DoubleType"}
_SPARK_OTHERS = {"BinaryType", "DateType", "DecimalType", "StringType"}
_SPARK_OTHERS |= {"TimestampType", "TimestampNTZType"}
_CODECS = {"CompressedImageCodec", "CompressedNdarrayCodec", "NdarrayCodec", "ScalarCodec"}

_KNOWN = {
    "petastorm.unischema": {"Unischema", "UnischemaField"},
    "petastorm.codecs": _CODECS,
    "pyspark.sql.types": _SPARK_NUMBERS | _SPARK_OTHERS,
    "numpy": {"dtype", *_NUMPY_TYPES},
    "numpy.core.multiarray": {"scalar"},
    "numpy._core.multiarray": {"scalar"},
    "decimal": {"Decimal"},
    "builtins": {"object", "tuple", *_PYTHON_TYPES},
    "_codecs": {"encode"},
}


@dataclass(frozen=True)
class PetastormDataset:
    """A folder of Parquet files that Petastorm wrote."""

    folder: str
    files: tuple[str, ...]
    """The data files, sorted, as `Stream` takes them."""

    unischema: Unischema
    """The stored schema; built anew, so it holds Petastorm's own classes only."""

    columns: frozenset[str] = field(repr=False)
    """The columns of the first file; partition columns are not among them."""

    @classmethod
    def open(cls, folder: str) -> Self:
        """Lists a data set's files and reads its schema; runs nothing of what is stored.

        Args:
            folder: A path, or a URI as `pipeline.stores.reading` takes it.

        Raises:
            SourceError: The folder cannot be read or has no data files.
            SchemaError: There is no Unischema, or it holds what no Unischema needs.
        """
        remote = "://" in folder or folder.startswith("file:")
        folder = folder if remote else str(Path(folder).absolute())
        try:
            files = tuple(list_parquet(folder))
            stored = _read_stored(_summary_of(folder))
            if not files:
                raise SourceError(folder, "no data files", "Check the path.")
            with open_file(files[0]) as source:
                columns = frozenset(pq.read_schema(source).names)
        except (OSError, pa.ArrowException) as error:
            problem = f"{type(error).__name__}: {error}"
            raise SourceError(folder, problem, "Check the path, and that all is whole.") from error
        return cls(folder, files, _load(stored, _summary_of(folder)), columns)

    def layout(self, fields: Sequence[str] | None = None) -> BatchLayout:
        """Returns a layout that delivers fields under their own names.

        Numbers and booleans become scalars, text strings, arrays and images of fixed shape tensors,
        and arrays of shape (None,) sequences. No batch holds a null, also not of a nullable field.

        Args:
            fields: Their names; None for all that fit. The log names those that do not.

        Raises:
            SchemaError: A field that is asked for is not there, or fits no tensor.
            EnvironmentFault: An image is among them, and OpenCV is missing.
        """
        found = self.unischema.fields
        places: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
        left_out = {}
        for name in dict.fromkeys(found if fields is None else fields):
            try:
                part, value = _place(found.get(name), self.columns)
                places[part][name] = value
            except _UnfitError as error:
                if fields is not None:
                    where = f"{self.folder}: field {name!r}"
                    remedy = f"Leave it out. The data set has {sorted(found)}."
                    raise SchemaError(where, str(error), remedy) from None
                left_out[name] = str(error)
        if left_out:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in left_out.items())
            _log.warning("%s: not in the batches: %s", self.folder, reasons)
        return BatchLayout(
            scalars=places["scalars"],
            strings=tuple(places["strings"]),
            tensors=places["tensors"],
            sequences=places["sequences"],
        )


class _UnfitError(Exception):
    """Why a field is in no batch."""


class _Record:
    """What the pickle says of one object; making one calls nothing of what it stands for."""

    kind: ClassVar[str]
    """The module and name it stands for."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Self:
        record = super().__new__(cls)
        record.args, record.state = args, {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Makes records. Their classes are new each time: a pickle can also change a class."""

    def __init__(self, stored: bytes, where: str) -> None:
        super().__init__(io.BytesIO(stored), encoding="latin1")  # as Python 2 wrote bytes
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name; the pickle may call it."""
        found = _OLD_MODULES.get(module, module)
        for package in _OLD_PACKAGES:
            found = f"petastorm.{found.removeprefix(package)}" if package in found else found
        if (found, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (found, name) == ("copyreg", "_reconstructor"):
            return lambda cls, _base, state: cls(*(state or ()))
        if (found, name) == ("pyspark.serializers", "_restore"):
            # Spark up to 3.3 changed how every named tuple of its process is pickled.
            field_class = self.find_class("petastorm.unischema", "UnischemaField")
            return lambda _name, _names, values: field_class(*values)
        if name not in _KNOWN.get(found, ()):
            raise SchemaError(
                self._where,
                f"the stored Unischema names {module}.{name}, which no Unischema needs: refused",
                "If you trust who wrote it, read it with petastorm.make_reader and write it anew "
                f"with Petastorm's own codecs. {_PLAIN_PARQUET}",
            )
        return type(name, (_Record,), {"kind": f"{found}.{name}"})


def _summary_of(folder: str) -> str:
    # Options of a store stand behind the path.
    path, mark, options = folder.partition("?") if is_remote(folder) else (folder, "", "")
    return f"{path.rstrip('/')}/_common_metadata{mark}{options}"


def _read_stored(file: str) -> bytes:
    """Returns the pickled Unischema."""
    try:
        with open_file(file) as source:
            stored: bytes | None = (pq.read_metadata(source).metadata or {}).get(UNISCHEMA_KEY)
    except FileNotFoundError as error:
        raise SchemaError(file, "not there: no Unischema", _PLAIN_PARQUET) from error
    if stored is None:
        raise SchemaError(file, "no Unischema in it", _PLAIN_PARQUET)
    return stored


def _load(stored: bytes, where: str) -> Unischema:
    try:
        _refuse_large_memo(stored)
        state = _expect(_Unpickler(stored, where).load(), "petastorm.unischema.Unischema").state
        fields = [_to_field(record) for record in state["_fields"].values()]
        return Unischema(str(state["_name"]), fields)
    except LakestormError:
        raise
    except Exception as error:
        problem = f"the stored Unischema cannot be read ({type(error).__name__}: {error})"
        raise SchemaError(where, problem, f"Write the metadata anew. {_PLAIN_PARQUET}") from error


def _refuse_large_memo(stored: bytes) -> None:
    """Refuses places in the pickle's memo that no honest one has: room is made for all before.

    One damaged byte could otherwise ask for all memory of the machine.
    """
    for opcode, argument, _ in pickletools.genops(stored):
        if opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > len(stored):
            raise pickle.UnpicklingError(f"place {argument} of the memo in {len(stored)} bytes")


def _expect(value: Any, *kinds: str) -> _Record:
    if isinstance(value, _Record) and value.kind in kinds:
        return value
    raise TypeError(f"{kinds} expected, found {getattr(value, 'kind', type(value).__name__)}")


def _to_field(value: Any) -> UnischemaField:
    record = _expect(value, "petastorm.unischema.UnischemaField")
    name, numpy_type, shape, codec, nullable = record.args
    sizes = tuple(None if size is None else _to_int(size) for size in shape)
    codec = None if codec is None else _to_codec(codec)
    return UnischemaField(str(name), _to_type(numpy_type), sizes, codec, bool(nullable))


def _to_type(value: Any) -> type[Any]:
    """Returns a field's NumPy or Python type, which is stored as a class or as a dtype."""
    if isinstance(value, type) and issubclass(value, _Record):
        module, _, name = value.kind.rpartition(".")
        types: dict[str, dict[str, type[Any]]] = {
            "numpy": _NUMPY_TYPES,
            "builtins": _PYTHON_TYPES,
            "decimal": {"Decimal": Decimal},
        }
        return types[module][name]
    return np.dtype(str(_expect(value, "numpy.dtype").args[0])).type


def _to_int(value: Any) -> int:
    """Returns a size, which may have been a NumPy integer."""
    if isinstance(value, int):
        return value
    record = _expect(value, "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    stored_type, stored = record.args
    if isinstance(stored, _Record):
        stored = _expect(stored, "_codecs.encode").args[0]
    data = stored.encode("latin1") if isinstance(stored, str) else stored
    code, order = _expect(stored_type, "numpy.dtype").args[0], stored_type.state[1]
    return int(np.frombuffer(data, np.dtype(code).newbyteorder(order))[0])


def _to_codec(value: Any) -> petastorm.codecs.DataframeColumnCodec:
    record = _expect(value, *(f"petastorm.codecs.{name}" for name in _CODECS))
    made_of = record.state
    cls = getattr(petastorm.codecs, record.kind.rpartition(".")[2])
    if cls is petastorm.codecs.ScalarCodec:
        return cls(_to_spark_type(made_of["_spark_type"]))
    codec = cls.__new__(cls)  # the constructor of the image codec asserts that OpenCV is there
    if cls is petastorm.codecs.CompressedImageCodec:
        vars(codec).update(_image_codec=str(made_of["_image_codec"]), _quality=made_of["_quality"])
    return codec


def _to_spark_type(value: Any) -> Any:
    from pyspark.sql import types

    record = _expect(value, *(f"pyspark.sql.types.{name}" for name in _KNOWN["pyspark.sql.types"]))
    # A copy: Spark has one instance of most types for the whole process.
    spark_type = copy.copy(getattr(types, record.kind.rpartition(".")[2])())
    plain = (bool, int, str)
    vars(spark_type).update({k: v for k, v in record.state.items() if isinstance(v, plain)})
    return spark_type


def _place(asked: UnischemaField | None, columns: frozenset[str]) -> tuple[str, Any]:
    """Returns the part of a BatchLayout that a field goes to, and what it is there.

    Raises:
        _UnfitError: It goes nowhere.
    """
    if asked is None:
        raise _UnfitError("no such field")
    name, shape = asked.name, asked.shape
    if name not in columns:
        raise _UnfitError("not in the files, as partition columns are")
    if shape == () and isinstance(asked.codec, petastorm.codecs.ScalarCodec | None):
        return _place_scalar(asked), name
    if np.dtype(asked.numpy_dtype).kind not in _NUMBERS:
        raise _UnfitError(f"arrays of {asked.numpy_dtype.__name__}")
    if None in shape and len(shape) > 1:
        raise _UnfitError(f"of shape {shape}, of which only a single dimension could vary")
    codec = _codec_of(asked)
    if shape == (None,):
        return "sequences", SequenceColumn(column=name, codec=codec)
    return "tensors", TensorColumn(column=name, shape=shape, codec=codec)


def _place_scalar(asked: UnischemaField) -> str:
    numpy_type = asked.numpy_dtype
    stored = type(asked.codec.spark_dtype()).__name__ if asked.codec else "of any type"
    if np.dtype(numpy_type).kind in _NUMBERS and stored in {"of any type", *_SPARK_NUMBERS}:
        return "scalars"
    if issubclass(numpy_type, str) and stored in {"of any type", "StringType"}:
        return "strings"
    raise _UnfitError(f"{numpy_type.__name__}, stored as {stored}")


def _codec_of(asked: UnischemaField) -> Codec | None:
    """Returns what decodes a field; None for lists of numbers, which need nothing."""
    dtype, shape, codec = np.dtype(asked.numpy_dtype), asked.shape, asked.codec
    try:
        if isinstance(codec, petastorm.codecs.CompressedImageCodec):
            return ImageCodec(shape=shape, dtype=dtype, format=codec.image_codec)
        if isinstance(codec, petastorm.codecs.ScalarCodec):
            raise _UnfitError(f"of shape {shape}, by a codec of scalars")
        if codec is None:
            return None
        compressed = isinstance(codec, petastorm.codecs.CompressedNdarrayCodec)
        return ArrayCodec(shape=shape, dtype=dtype, compressed=compressed)
    except PlanError as error:
        raise _UnfitError(f"{error.where}: {error.problem}") from error
