from __future__ import annotations

import inspect
import pickle

from pipeline import errors
from pipeline.errors import LakestormError, RowGroupError


def test_every_error_is_drawn_in_the_tree() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    drawn = errors.__doc__ or ""
    assert [c.__name__ for c in classes if c.__name__ not in drawn] == []
    assert all(issubclass(c, LakestormError) for c in classes)


def test_an_error_crosses_processes_whole() -> None:
    error = RowGroupError("file a, row group 3", "is damaged.", "Write it again.")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
    assert str(copy) == "file a, row group 3: is damaged. Write it again."
    assert (copy.where, copy.problem, copy.remedy) == (error.where, error.problem, error.remedy)
