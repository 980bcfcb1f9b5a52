"""What Petastorm's process pool starts its workers with: a new interpreter, with the bridge in it.

Petastorm runs `python -m petastorm...`, which imports Petastorm before anything else could load
the bridge.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import dill

import pipeline

_ENTRYPOINT = "petastorm.workers_pool.exec_in_new_process_entrypoint"
_BOOTSTRAP = (
    "import runpy, pipeline.stream.bridge; "
    f"runpy.run_module({_ENTRYPOINT!r}, run_name='__main__', alter_sys=True)"
)


def exec_in_new_process(
    func: Callable[..., None], *args: Any, **kwargs: Any
) -> subprocess.Popen[bytes]:
    """Runs `func(*args, **kwargs)` in a new interpreter; Petastorm's entry point unpickles it."""
    handle, runnable = mkstemp(suffix="runnable")
    with os.fdopen(handle, "wb") as file:
        dill.dump((func, args, kwargs), file)
    # The child must find this package also when it is a checkout that only sys.path knows.
    checkout = str(Path(pipeline.__file__).parent.parent)
    search_path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), checkout]))
    return subprocess.Popen(
        [sys.executable, "-c", _BOOTSTRAP, runnable], env={**os.environ, "PYTHONPATH": search_path}
    )
