from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark
import pytest

from pipeline.session import CHECKOUT
from tests.conftest import QUICK_JAVA

SPARK_HOME = Path(pyspark.__file__).parent
CORES, MEMORY = "1", "1g"


def environment() -> dict[str, str]:
    """As a user has it who submits from the project's environment."""
    return {
        **os.environ,
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(CHECKOUT),  # for networks of the tests' own
    }


@contextmanager
def spark_daemon(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real Spark process; gives it and what it said up to the line that it is ready."""
    process = subprocess.Popen(
        [str(SPARK_HOME / "bin" / "spark-class"), *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = []
    try:
        for line in process.stderr or ():
            said.append(line)
            if "New state: ALIVE" in line or "Successfully registered with master" in line:
                break
        else:
            pytest.fail("Spark's daemon ended: " + "".join(said[-20:]))
        yield process, "".join(said)
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="session")
def standalone_master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real standalone master with two workers, all on the loopback."""
    folder = tmp_path_factory.mktemp("spark")
    package = "org.apache.spark.deploy"
    # Spark's daemons say at level INFO that they are ready.
    log = folder / "log4j2.properties"
    log.write_text(
        "rootLogger.level = info\n"
        "rootLogger.appenderRef.stderr.ref = stderr\n"
        "appender.stderr.type = Console\nappender.stderr.name = stderr\n"
        "appender.stderr.target = SYSTEM_ERR\nappender.stderr.layout.type = PatternLayout\n"
        "appender.stderr.layout.pattern = %p %c{1}: %m%n\n"
    )
    os.environ["SPARK_DAEMON_JAVA_OPTS"] = f"{QUICK_JAVA} -Dlog4j2.configurationFile={log.as_uri()}"
    local = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
    with ExitStack() as daemons:
        master = daemons.enter_context(spark_daemon(folder, f"{package}.master.Master", *local))
        found = re.search(r"spark://127\.0\.0\.1:\d+", master[1])
        assert found, master[1]
        for name in ("one", "two"):
            work = ("--cores", CORES, "--memory", MEMORY, "--work-dir", str(folder / name))
            worker = (f"{package}.worker.Worker", *local, *work, found[0])
            daemons.enter_context(spark_daemon(folder, *worker))
        yield found[0]
    del os.environ["SPARK_DAEMON_JAVA_OPTS"]


def submit(master: str, stage: str, *arguments: str) -> str:
    """Runs `spark-submit jobs/STAGE.py`; returns standard output.

    Fails with what it printed where the job fails.
    """
    done = subprocess.run(
        [
            str(SPARK_HOME / "bin" / "spark-submit"),
            *("--master", master, "--conf", "spark.executor.memory=1g"),
            *("--properties-file", str(CHECKOUT / "conf" / "spark-defaults.conf")),
            *("--conf", "spark.driver.bindAddress=127.0.0.1", "--conf", "spark.ui.enabled=false"),
            *("--conf", "spark.driver.host=127.0.0.1"),
            *("--conf", "spark.sql.shuffle.partitions=4"),
            *("--conf", f"spark.executor.extraJavaOptions={QUICK_JAVA}"),
            str(CHECKOUT / "jobs" / f"{stage}.py"),
            *arguments,
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert done.returncode == 0, "\n".join(told[-50:])
    return done.stdout
