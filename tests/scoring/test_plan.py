from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lake import Lake, commit, data_file
from pipeline.scoring.plan import plan_tasks

SCHEMA = pa.schema([("id", pa.int64()), ("split", pa.string()), ("period", pa.string())])

layouts = st.dictionaries(
    st.tuples(st.sampled_from(["train", "test"]), st.sampled_from(["2013-01", "2013-02"])),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    max_size=4,
)


@settings(max_examples=20, deadline=None)
@given(layout=layouts, rows_per_task=st.integers(1, 60))
def test_each_row_group_is_in_one_task_of_its_period(
    tmp_path_factory: pytest.TempPathFactory,
    layout: dict[tuple[str, str], list[int]],
    rows_per_task: int,
) -> None:
    table = Lake(tmp_path_factory.mktemp("lake")).table("features")
    table.create(SCHEMA, ["split", "period"])
    files = []
    for (split, period), sizes in layout.items():
        for number, rows in enumerate(sizes):
            path = f"a/split={split}/period={period}/{number}.parquet"
            full = Path(table.root) / path
            full.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"id": range(rows)}), full, row_group_size=7)
            files.append(data_file(table.folder, path, SCHEMA, ("split", "period")))
    commit(table, files)
    tasks = plan_tasks(table.snapshot(), "period", rows_per_task)
    planned = Counter((g.file, g.index) for task in tasks for g in task.row_groups)
    footers = {file.path: pq.read_metadata(f"{table.root}/{file.path}") for file in files}
    wanted = {
        (f"{table.root}/{path}", g) for path, f in footers.items() for g in range(f.num_row_groups)
    }
    assert planned == Counter(wanted)
    assert all(f"period={t.period}/" in g.file for t in tasks for g in t.row_groups)
    # A task is closed by the row group that fills it.
    assert all(task.rows < rows_per_task + 7 for task in tasks)
