"""Builds the SparkSession, nothing else."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipeline.errors import EnvironmentFault
from pipeline.stores.settings import REDACTED, Hadoop

OLDEST_JAVA = 17
CHECKOUT = Path(__file__).resolve().parent.parent

HASH_KEYS = "lakestorm-key-[0-9a-f]+"
"""What sensitive values are hashed with, as a pattern: see `pipeline/clean/sensitive.py`."""

# What results depend on; everything else belongs into conf/spark-defaults.conf.
SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    # Spark would compute what occurs twice in a select once and first: outside of a `try`.
    "spark.sql.subexpressionElimination.enabled": "false",
    # Delta and Arrow read INT64 microseconds; Spark's default is INT96.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # A file that is gone or broken ends the job: skipping it would lose rows.
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    # A flipped bit would become another value: pages that have a check sum are held against it.
    "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
    # Timestamps of pandas come in nanoseconds, which Spark refuses unless it may read numbers.
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # Raw text comes in windows-1252 and others that Spark 4 would no longer read.
    "spark.sql.legacy.javaCharsets": "true",
    # A table's folder holds its log and its data files, no markers.
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    # Pages and logs show settings; these they show blank.
    "spark.redaction.regex": REDACTED,
    # So do plans, of what values are hashed with.
    "spark.sql.redaction.string.regex": HASH_KEYS,
}

# For a driver that is not started by spark-submit.
DRIVER_SETTINGS = {
    "spark.driver.extraJavaOptions": "-Duser.timezone=UTC",
    "spark.ui.showConsoleProgress": "false",
}
# For one that needs no cluster: a quiet process on this machine. conf/spark-defaults.conf says why
# rows that are kept are not compressed, and why generated methods are short.
LOCAL_SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "3g",
    "spark.ui.enabled": "false",
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    "spark.sql.codegen.hugeMethodLimit": "8000",
    "spark.sql.shuffle.partitions": "8",
}


def spark_session(
    app: str, master: str | None = None, stores: Sequence[Hadoop] = ()
) -> SparkSession:
    """The session of this process.

    Args:
        app: Name shown in Spark's pages and logs.
        master: Such as `spark://host:7077`; by default what spark-submit was given, or `local[*]`.
        stores: What a lake, or raw files, in object stores need.

    Raises:
        EnvironmentFault: There is no Java 17 or newer, Spark did not start, or it has no class for
            a store.
    """
    _find_java()
    # Executors on this machine run what the driver runs; a cluster's image says otherwise.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = SETTINGS | _of_stores(stores)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not started by spark-submit
        settings |= _of_driver(master or "local[*]")
    builder = SparkSession.builder.appName(app)
    for name, value in settings.items():
        builder = builder.config(name, value)
    # Spark's Python side logs each rejected expression as JSON; the user gets our error instead.
    # So does Py4J, with its stack, for what a batch of a stream raises.
    for logger in ("SQLQueryContextLogger", "DataFrameQueryContextLogger", "py4j.clientserver"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        spark = builder.getOrCreate()
    except (PySparkException, Py4JError, RuntimeError, OSError) as error:
        hint = (
            "check Java, memory, and whether a master answers at the address that was given, and "
            "knows the same secret"
        )
        packages = _distinct(each for store in stores for each in store.packages)
        if packages:
            hint += f"; and that Maven gives {', '.join(packages)}: `storage.jars`"
        raise EnvironmentFault(
            "Spark", f"did not start: {_reason(error)}", f"See its messages above; {hint}."
        ) from error
    for store in stores:
        _require_class(spark, store)
    return spark


def _of_stores(stores: Sequence[Hadoop]) -> dict[str, str]:
    jars = {
        # A session that spark-submit started has its class path already.
        "spark.jars.packages": _distinct(each for store in stores for each in store.packages),
        "spark.jars": _distinct(each for store in stores for each in store.jars),
    }
    settings = {name: value for store in stores for name, value in store.settings.items()}
    return settings | {name: ",".join(values) for name, values in jars.items() if values}


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _require_class(spark: SparkSession, store: Hadoop) -> None:
    """Spark would find out in the midst of a stage, and say it in a hundred lines."""
    jvm = spark._jvm  # noqa: SLF001
    try:
        # As Hadoop looks it up, where jars that came with the job are seen, too.
        jvm.org.apache.hadoop.conf.Configuration().getClassByName(store.filesystem)  # type: ignore[union-attr]
    except Py4JJavaError as error:
        spark.stop()
        wanted = ", ".join((*store.packages, *store.jars)) or "the store's connector"
        raise EnvironmentFault(
            "Spark",
            f"has no {store.filesystem}, so it cannot reach the lake's store",
            f"Give spark-submit --packages or --jars with {wanted}, or put the jar into the image: "
            "docs/deploy.md.",
        ) from error


def _reason(error: Exception) -> str:
    """An error in one line: of Java's without where in our code, and without its stack."""
    lines = [line.removeprefix(": ") for line in str(error).splitlines() if line.strip()]
    return lines[1] if isinstance(error, Py4JJavaError) and len(lines) > 1 else " ".join(lines)


def _of_driver(master: str) -> dict[str, str]:
    """What spark-submit would be given."""
    settings = DRIVER_SETTINGS | {"spark.master": master}
    if master.startswith("local"):
        settings |= LOCAL_SETTINGS
    log4j = CHECKOUT / "conf" / "log4j2.properties"
    if log4j.is_file():
        settings["spark.driver.extraJavaOptions"] += f" -Dlog4j2.configurationFile={log4j.as_uri()}"
    return settings


def _find_java() -> None:
    """Lets Spark find Java: JAVA_HOME if set, else `java` on the path, else the checkout's own."""
    if "JAVA_HOME" in os.environ:
        found = [Path(os.environ["JAVA_HOME"]) / "bin" / "java"]
    else:
        on_path = shutil.which("java")
        found = [Path(on_path)] if on_path else []
        found += sorted((CHECKOUT / ".jre").glob("*/bin/java"))
    versions = {java: _java_version(java) for java in found}
    fit = [java for java, version in versions.items() if version and version >= OLDEST_JAVA]
    if not fit:
        known = [version for version in versions.values() if version]
        raise EnvironmentFault(
            "Java",
            f"Spark needs version {OLDEST_JAVA} or newer, "
            + (f"there is version {known[0]}" if known else "there is none"),
            "Install a JRE (Debian: openjdk-17-jre-headless), or set JAVA_HOME to one.",
        )
    if "JAVA_HOME" not in os.environ and (CHECKOUT / ".jre") in fit[0].parents:
        os.environ["JAVA_HOME"] = str(fit[0].parent.parent)


def _java_version(java: Path) -> int | None:
    """Major version; `1.8.0` counts as 8."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    return int(match.group(1)) if match else None
