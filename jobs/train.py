"""`features` to a registered model: spark-submit jobs/train.py PIPELINE.yaml [--set A.B=VALUE]."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
