"""`clean` to `features`, by a spec fitted on the train split.

spark-submit [--master URL] jobs/featurize.py PIPELINE.yaml
    [--incremental] [--set A.B=VALUE] [--json]
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["featurize", *sys.argv[1:]])
