"""What Petastorm sees as `pyspark`; loading it makes Petastorm's functions travel to executors.

Spark ships a function of an importable module as the module's name, and an executor that imports
`petastorm.unischema` for `dict_to_spark_row` has no bridge. Registered here, Petastorm's functions
and classes are shipped whole; the names they use are then looked up in `pipeline.stream.legacy`.
"""

from __future__ import annotations

from typing import Any

import petastorm
import pyspark
from pyspark.cloudpickle import register_pickle_by_value

register_pickle_by_value(petastorm)  # type: ignore[no-untyped-call]


def __getattr__(name: str) -> Any:
    return getattr(pyspark, name)
