"""`clean` to `features`, by a spec fitted on the train split: spark-submit jobs/featurize.py PIPELINE.yaml [--set A.B=VALUE]."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["featurize", *sys.argv[1:]])
