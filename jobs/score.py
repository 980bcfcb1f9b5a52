"""`clean` and a registered model to `predictions`.

spark-submit [--master URL] jobs/score.py PIPELINE.yaml
    [--model NAME@VERSION] [--from DAY --to DAY] [--set A.B=VALUE] [--json]
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
