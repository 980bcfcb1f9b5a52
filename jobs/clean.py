"""Raw files to `clean`, `quarantine` and `quality`.

spark-submit [--master URL] jobs/clean.py PIPELINE.yaml
    [--incremental [--rebuild]] [--set A.B=VALUE] [--json]
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["clean", *sys.argv[1:]])
