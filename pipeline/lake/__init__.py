"""The only code that lists, commits or reads tables.

A table is a Delta table. Executors write Parquet files into a new folder of it (`attempt.py`),
nobody sees them until the driver commits exactly these files (`transaction.py`), and readers pin a
version (`snapshot.py`). A crash at any moment leaves the table as it was. What a table lacks that
is made of another one follows from the commits of both (`backlog.py`).
"""

from pipeline.lake.alone import alone
from pipeline.lake.attempt import Attempt
from pipeline.lake.backlog import Backlog, backlog
from pipeline.lake.changes import Changes, changes, data_version
from pipeline.lake.compaction import ROWS_PER_ROW_GROUP, TARGET_BYTES, Compacted, compact
from pipeline.lake.files import DataFile, data_file
from pipeline.lake.fingerprint import COUNTS, RUN, WRITER, fingerprint
from pipeline.lake.restoring import restore
from pipeline.lake.root import Lake
from pipeline.lake.snapshot import Between, Snapshot
from pipeline.lake.sweeping import sweep
from pipeline.lake.table import WITHOUT_BOUNDS, Table
from pipeline.lake.transaction import (
    Committed,
    Since,
    Transaction,
    commit,
    refuses_second_commit,
)

__all__ = [
    "COUNTS",
    "ROWS_PER_ROW_GROUP",
    "RUN",
    "TARGET_BYTES",
    "WITHOUT_BOUNDS",
    "WRITER",
    "Attempt",
    "Backlog",
    "Between",
    "Changes",
    "Committed",
    "Compacted",
    "DataFile",
    "Lake",
    "Since",
    "Snapshot",
    "Table",
    "Transaction",
    "alone",
    "backlog",
    "changes",
    "commit",
    "compact",
    "data_file",
    "data_version",
    "fingerprint",
    "refuses_second_commit",
    "restore",
    "sweep",
]
