from __future__ import annotations

import subprocess
from pathlib import Path

from tests.command import ENVIRONMENT, LAKESTORM
from tests.flights import FLIGHTS


def test_a_spark_that_does_not_start_is_told_in_one_line(tmp_path: Path) -> None:
    asked = ("clean", str(FLIGHTS), "--set", f"lake={tmp_path}", "--master", "spark://no-port")
    done = subprocess.run(
        [*LAKESTORM, *asked], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.startswith("lakestorm: EnvironmentFault: Spark: did not start: ")
    assert "spark://no-port" in told
    assert "Traceback" not in done.stderr
