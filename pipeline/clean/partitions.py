"""How many tasks compare rows with each other: the more, the larger the files that hold them.

Spark's number of shuffle partitions follows no size: of 10,000,000,000 rows each of 200 tasks would
sort 50,000,000, most of them on disk. Adaptive execution merges partitions that are too small, but
cuts none whose rows have to stay together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

TASK_BYTES = 32 * 2**20
"""Of files as they lie on disk: about 1,200,000 narrow rows, which an executor sorts in memory."""
_SETTING = "spark.sql.shuffle.partitions"


@contextmanager
def partitions_by_size(spark: SparkSession, stored_bytes: int) -> Iterator[None]:
    """Lets shuffles within have a partition for each so many bytes, if that is more than is set.

    Args:
        spark: The session; afterwards it is set as before.
        stored_bytes: Of all files whose rows are compared.
    """
    before = str(spark.conf.get(_SETTING))
    spark.conf.set(_SETTING, max(int(before), math.ceil(stored_bytes / TASK_BYTES)))
    try:
        yield
    finally:
        spark.conf.set(_SETTING, before)
