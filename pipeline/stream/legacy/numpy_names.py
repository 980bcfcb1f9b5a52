"""What Petastorm sees as `numpy`: today's, with the names that NumPy 1.24, 2.0 and 2.4 removed."""

from __future__ import annotations

import builtins
from typing import Any

import numpy

# Copied rather than looked up through __getattr__: Petastorm's decode_row asks for `np.generic`
# once a field and row.
globals().update({name: value for name, value in vars(numpy).items() if name[:2] != "__"})

unicode_ = numpy.str_
string_ = numpy.bytes_
float = builtins.float  # noqa: A001 - the name is the point
in1d = numpy.isin


def __getattr__(name: str) -> Any:
    return getattr(numpy, name)
