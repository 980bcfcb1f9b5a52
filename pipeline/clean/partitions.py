"""How Spark cuts the work into tasks.

How many tasks compare rows with each other: the more, the larger the files that hold them.

Spark's number of shuffle partitions follows no size: of 10,000,000,000 rows each of 200 tasks would
sort 50,000,000, most of them on disk. Adaptive execution merges partitions that are too small, but
cuts none whose rows have to stay together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from pipeline.config import Pipeline
from pipeline.sources.formats import format_named

TASK_BYTES = 32 * 2**20
"""Of files as they lie on disk: about 1,200,000 narrow rows, which an executor sorts in memory."""
_SETTING = "spark.sql.shuffle.partitions"
# A file counts as so many bytes more than it has, and a task takes as many as this.
_PACKING = ("spark.sql.files.openCostInBytes", "spark.sql.files.maxPartitionBytes")
_ONE_FILE = str(2**40)


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


@contextmanager
def whole_files(spark: SparkSession, pipeline: Pipeline) -> Iterator[None]:
    """Lets each task within read one whole file, where rows are named by their place in a block.

    A record of a text file has no index but its place in what its task reads. Spark packs small
    files together and cuts large ones, by what else there is to read: the same record would get
    another name when a file comes in beside it.

    Args:
        spark: The session; afterwards it is set as before.
        pipeline: The description.
    """
    by_block = format_named(pipeline.source.format).by_block
    by_position = pipeline.clean.row_id == "position" and by_block
    settings = dict.fromkeys(_PACKING, _ONE_FILE) if by_position else {}
    before = {name: str(spark.conf.get(name)) for name in settings}
    for name, value in settings.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)
