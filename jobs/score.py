"""`clean` and a registered model to `predictions`: spark-submit jobs/score.py PIPELINE.yaml [--set A.B=VALUE]."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
