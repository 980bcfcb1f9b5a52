"""Lets Petastorm 0.13.1 run on current pyarrow, NumPy and Python; importing it is all it takes.

Petastorm is written against names that pyarrow, NumPy and Python have dropped. Putting them back
would change those packages for everybody in the process. Instead, Petastorm's modules, and only
they, are run with an `import` of their own, which hands out the modules of `pipeline.stream.legacy`
in place of those packages:

    any other module   import pyarrow  ->  pyarrow
    petastorm.*        import pyarrow  ->  pipeline.stream.legacy.arrow  ->  pyarrow

Python looks `__import__` up in a module's own `__builtins__`, so no attribute of any other package
is added or changed.

See: https://docs.python.org/3/reference/import.html#the-meta-path and
https://docs.python.org/3/reference/executionmodel.html#builtins-and-restricted-execution
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_LEGACY = {
    "distutils.version": "pipeline.stream.legacy.version",
    "numpy": "pipeline.stream.legacy.numpy_names",
    "petastorm.workers_pool.exec_in_new_process": "pipeline.stream.legacy.launch",
    "pyarrow": "pipeline.stream.legacy.arrow",
    "pyarrow.filesystem": "pipeline.stream.legacy.filesystem",
    "pyarrow.hdfs": "pipeline.stream.legacy.hdfs",
    "pyarrow.parquet": "pipeline.stream.legacy.parquet",
    "pyspark": "pipeline.stream.legacy.spark",
}


def _import_for_petastorm(
    name: str,
    globals: Mapping[str, object] | None = None,  # noqa: A002 - the signature of __import__
    locals: Mapping[str, object] | None = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` as Petastorm's modules see it."""
    # `import a.b` binds `a`; `from a.b import c` binds out of `a.b`.
    bound = name if fromlist else name.partition(".")[0]
    if level > 0 or bound not in _LEGACY:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    if name not in _LEGACY:
        importlib.import_module(name)
    return importlib.import_module(_LEGACY[bound])


_BUILTINS: dict[str, Any] = {**vars(builtins), "__import__": _import_for_petastorm}


class _PetastormLoader(SourceFileLoader):
    """Runs a module of Petastorm with builtins whose `__import__` knows the legacy names."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = _BUILTINS
        super().exec_module(module)


class _PetastormFinder(MetaPathFinder):
    """Finds Petastorm's modules where they are, and gives them the loader above."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "petastorm":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _PetastormLoader(fullname, spec.loader.path)
        return spec


def _forget_failed_import() -> None:
    """Drops modules that an `import petastorm` without the bridge left when it failed half-way."""
    if "petastorm" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("petastorm.")]:
            del sys.modules[name]


_forget_failed_import()
sys.meta_path.insert(0, _PetastormFinder())
