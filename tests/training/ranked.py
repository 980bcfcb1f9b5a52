"""One rank of a job, whose first rank tells each step's loss; for torchrun.

python -m tests.training.ranked JOB.json PIPE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline.training import worker
from pipeline.training.progress import ProgressReport


def main(job: str, pipe: str) -> None:
    told = Path(pipe).open("w", buffering=1) if os.environ["RANK"] == "0" else None  # noqa: SIM115
    begin_epoch, step = ProgressReport.begin_epoch, ProgressReport.step
    place = [0, 0]

    def beginning(self: ProgressReport, epoch: int, steps: int, steps_done: int) -> None:
        begin_epoch(self, epoch, steps, steps_done)
        place[:] = epoch, steps_done

    def stepping(self: ProgressReport, rows: int, loss: float) -> None:
        step(self, rows, loss)
        if told is not None:
            told.write(f"{place[0]} {place[1]} {loss.hex()}\n")
        place[1] += 1

    ProgressReport.begin_epoch = beginning  # type: ignore[method-assign]
    ProgressReport.step = stepping  # type: ignore[method-assign]
    worker.work(job)


if __name__ == "__main__":
    main(*sys.argv[1:])
