"""An archive of Spark's classes, as Java has them in memory: the tests' Sparks start from it.

    python -m tests.java_classes

makes it, once an environment. A start takes half of the processor's time with it: classes need not
be found in jars, read and checked, and the tests start dozens of Sparks. Java looks whether the
archive fits itself and the jars, and does without it where not.

Source: JEP 350, dynamic archives by `-XX:ArchiveClassesAtExit`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pipeline.session import spark_session

ARCHIVE = Path(sys.prefix) / "spark-classes.jsa"
QUIET = "-Xlog:cds=off -Xlog:cds+dynamic=off"


def java_options() -> str:
    """What lets Java start from the archive; empty where there is none."""
    return f"-XX:SharedArchiveFile={ARCHIVE} {QUIET}" if ARCHIVE.exists() else ""


def make() -> None:
    """Lets a Spark do a little of what the tests do, and keeps the classes that it met."""
    os.environ["SPARK_SUBMIT_OPTS"] = f"-XX:ArchiveClassesAtExit={ARCHIVE} {QUIET}"
    spark = spark_session("classes", "local[1]")
    with tempfile.TemporaryDirectory() as folder:
        numbers = spark.range(1000).selectExpr("id", "string(id % 7) AS name", "id / 3 AS third")
        numbers.write.partitionBy("name").parquet(f"{folder}/numbers")
        read = spark.read.parquet(f"{folder}/numbers")
        read.groupBy("name").count().join(read, "name").dropDuplicates(["id"]).toPandas()
        context = spark.sparkContext
        context.parallelize([1], 1).mapPartitions(list).collect()
    java = context._gateway.proc  # type: ignore[union-attr]
    spark.stop()
    java.stdin.close()  # it writes the archive when it ends
    java.wait()


if __name__ == "__main__":
    make()
