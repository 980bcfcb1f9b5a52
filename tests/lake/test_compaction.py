from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

import pipeline.lake.compaction as module
from pipeline.errors import CommitRefusedError
from pipeline.lake import (
    ROWS_PER_ROW_GROUP,
    Changes,
    Compacted,
    Lake,
    Transaction,
    changes,
    commit,
    compact,
    data_file,
    data_version,
)
from tests.lake.test_transaction import content, new_table, staged


def test_small_files_become_one_per_partition_with_the_same_rows(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for i in range(4):
        commit(table, staged(table, {"b/c:%+ é": [i, i], None: [10 + i]}))
    commit(table, staged(table, {"alone": [99]}), transaction=Transaction("app", 7))
    before, version = content(table), table.open().version()
    alone = table.snapshot().select(p="alone").files
    assert compact(table) == Compacted(merged=8, into=2)
    assert content(table) == before
    assert len(table.snapshot().files) == 3
    assert table.snapshot().select(p="alone").files == alone
    assert table.open().version() == version + 1
    assert table.transaction_version("app") == 7
    assert changes(table, 0, version + 1) == changes(table, 0, version)
    assert changes(table, version, version + 1) == Changes((), ())
    assert data_version(table) == version
    assert compact(table) == Compacted(0, 0)
    assert table.open().version() == version + 1


def test_rows_keep_the_order_of_commits_and_paths(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for i in range(6):  # folders of attempts have random names
        commit(table, staged(table, {"a": [2 * i, 2 * i + 1]}))
    compact(table)
    assert table.snapshot().arrow(["id"])["id"].to_pylist() == list(range(12))
    commit(table, staged(table, {"a": [12]}))
    compact(table)
    assert table.snapshot().arrow(["id"])["id"].to_pylist() == list(range(13))


def test_only_neighbours_that_fit_into_the_target_are_merged(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for i in range(5):
        commit(table, staged(table, {"a": list(range(1000 * i, 1000 * (i + 1)))}))
    size = max(file.bytes for file in table.snapshot().files)
    assert compact(table, target_bytes=2 * size) == Compacted(merged=4, into=2)
    commit(table, staged(table, {"a": [1]}))
    assert compact(table, target_bytes=100) == Compacted(0, 0)
    assert len(table.snapshot().files) == 4


def layout_of(path: str) -> dict[str, set[tuple[str, bool]]]:
    footer = pq.read_metadata(path)
    chunks = [
        footer.row_group(g).column(c)
        for g in range(footer.num_row_groups)
        for c in range(footer.num_columns)
    ]
    return {
        c.path_in_schema: {
            (d.compression, d.has_dictionary_page)
            for d in chunks
            if d.path_in_schema == c.path_in_schema
        }
        for c in chunks
    }


@pytest.mark.parametrize("noted", [None, "100"])
def test_encoding_compression_and_row_groups_stay(tmp_path: Path, noted: str | None) -> None:
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("x", pa.float32()),
            ("ids", pa.list_(pa.int32())),
            ("n", pa.int32()),
        ]
    )
    table = Lake(tmp_path).table("t")
    table.create(schema)
    required = schema.set(1, schema.field(1).with_nullable(False))
    for i in range(3):
        rows = pa.table(
            {"key": ["k"] * 70, "x": [float(i)] * 70, "ids": [[i, i]] * 70, "n": [i] * 70},
            schema=required,
        )
        attempt = table.attempt()
        (Path(table.root) / attempt.folder).mkdir()
        path = f"{attempt.folder}/f.parquet"
        pq.write_table(
            rows,
            f"{table.root}/{path}",
            use_dictionary=["key"],
            compression={"key": "zstd", "x": "none", "ids.list.element": "snappy", "n": "lz4"},
        )
        notes = {} if noted is None else {ROWS_PER_ROW_GROUP: noted}
        commit(table, [data_file(table.folder, path, schema, ())], notes=notes)
    before = layout_of(table.snapshot().uris()[0])
    compact(table)
    (uri,) = table.snapshot().uris()
    assert (
        layout_of(uri)
        == before
        == {
            "key": {("ZSTD", True)},
            "x": {("UNCOMPRESSED", False)},
            "ids.list.element": {("SNAPPY", False)},
            "n": {("LZ4", False)},
        }
    )
    footer = pq.read_metadata(uri)
    groups = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
    assert groups == ([210] if noted is None else [100, 100, 10])
    assert not footer.schema.to_arrow_schema().field("x").nullable
    bounds = pa.table(DeltaTable(table.root).get_add_actions(flatten=True)).to_pylist()[0]
    assert (bounds["num_records"], bounds["min.x"], bounds["max.x"]) == (210, 0, 2)
    merged = pl.read_delta(table.root)
    assert merged["x"].to_list() == [0.0] * 70 + [1.0] * 70 + [2.0] * 70
    assert merged["ids"].to_list() == [[0, 0]] * 70 + [[1, 1]] * 70 + [[2, 2]] * 70
    assert merged["n"].to_list() == [0] * 70 + [1] * 70 + [2] * 70


def test_a_commit_that_lands_meanwhile_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = new_table(tmp_path)
    for i in range(3):
        commit(table, staged(table, {"a": [i], "b": [10 + i], "c": [20 + i]}))
    write_merged = module._merge
    rivals = [
        lambda: commit(table, staged(table, {"a": [100]}), replace=[("a",)]),
        lambda: commit(table, staged(table, {"b": [200]})),
    ]

    def overtaken(*arguments: Any) -> None:
        write_merged(*arguments)
        if rivals:
            rivals.pop()()

    monkeypatch.setattr(module, "_merge", overtaken)
    assert compact(table) == Compacted(merged=6, into=2)  # of b and c; a's files are gone
    expected = Counter([(100, "a"), (200, "b"), *((10 + i, "b") for i in range(3))])
    assert content(table) == expected + Counter((20 + i, "c") for i in range(3))
    merged = list(Path(table.root).rglob("merged-*.parquet"))
    assert len(merged) == 2  # what did not land is not left behind


def test_a_failed_compaction_leaves_the_table_and_no_files(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for i in range(2):
        commit(table, staged(table, {"a": [i]}))
    Path(table.snapshot().uris()[1]).write_bytes(b"PAR1 no")
    version = table.open().version()
    with pytest.raises(CommitRefusedError, match="cannot be read back"):
        compact(table)
    assert table.open().version() == version
    assert not list(Path(table.root).rglob("merged-*.parquet"))
