"""`features` to a registered model.

spark-submit [--master URL] jobs/train.py PIPELINE.yaml [--workers N] [--set A.B=VALUE] [--json]
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
