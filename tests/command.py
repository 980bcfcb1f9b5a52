"""The command as people call it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from pipeline.session import CHECKOUT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
LAKESTORM = [sys.executable, "-P", "-m", "pipeline"]


def lakestorm(*arguments: str) -> dict[str, Any]:
    """A command's JSON; fails with what it said where it fails."""
    told: dict[str, Any] = json.loads(shown(*arguments, "--json").splitlines()[-1])
    return told


def shown(*arguments: str) -> str:
    """What a command prints for people; fails with what it said where it fails."""
    done = subprocess.run(
        [*LAKESTORM, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
