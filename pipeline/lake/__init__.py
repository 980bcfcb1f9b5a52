"""The only code that lists, commits or reads tables.

A table is a Delta table. Executors write Parquet files into a new folder of it (`attempt.py`),
nobody sees them until the driver commits exactly these files (`transaction.py`), and readers pin a
version (`snapshot.py`). A crash at any moment leaves the table as it was.
"""

from pipeline.lake.attempt import Attempt
from pipeline.lake.changes import Changes, changes
from pipeline.lake.files import DataFile, data_file
from pipeline.lake.fingerprint import COUNTS, RUN, fingerprint
from pipeline.lake.root import Lake
from pipeline.lake.snapshot import Between, Snapshot
from pipeline.lake.table import Table
from pipeline.lake.transaction import Committed, Transaction, commit

__all__ = [
    "COUNTS",
    "RUN",
    "Attempt",
    "Between",
    "Changes",
    "Committed",
    "DataFile",
    "Lake",
    "Snapshot",
    "Table",
    "Transaction",
    "changes",
    "commit",
    "data_file",
    "fingerprint",
]
