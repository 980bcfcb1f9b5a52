"""All tables and the model's run to one HTML page.

spark-submit [--master URL] jobs/report.py PIPELINE.yaml [--set A.B=VALUE] [--json]
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
