from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import NullValueError, PlanError, RowGroupError, SchemaError
from pipeline.stream import BatchLayout, Stream, row_groups_of
from pipeline.stream.fetch import RowGroups
from tests.stream.conftest import stream_threads
from tests.stream.examples import IDS, drain, ids_of, write_files


@pytest.fixture
def files(tmp_path: Path):
    return write_files(tmp_path, [[20] * 10] * 4)


def write_column(folder: Path, values: pa.Array) -> list[str]:
    path = folder / "column.parquet"
    pq.write_table(pa.table({"x": values}), path, row_group_size=10)
    return [str(path)]


def test_a_file_that_is_not_there_is_named(files: list[str]) -> None:
    Path(files[2]).unlink()
    with pytest.raises(RowGroupError, match=r"part-002.parquet, footer: FileNotFoundError"):
        row_groups_of(files)


def test_a_file_without_a_footer_is_named(files: list[str]) -> None:
    Path(files[1]).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(RowGroupError, match=r"part-001.parquet, footer"):
        Stream(files, IDS, rows_per_batch=8)


def test_a_corrupt_page_is_an_error_naming_file_and_row_group(tmp_path: Path) -> None:
    files = write_files(tmp_path, [[2000] * 3])
    column = pq.ParquetFile(files[0]).metadata.row_group(1).column(0)
    content = bytearray(Path(files[0]).read_bytes())
    for offset in range(column.dictionary_page_offset, column.dictionary_page_offset + 40):
        content[offset] ^= 0xFF
    Path(files[0]).write_bytes(content)
    stream = Stream(files, IDS, rows_per_batch=100, shuffle=False)
    with pytest.raises(RowGroupError, match=r"part-000.parquet, row group 1: "):
        drain(stream.epoch(0))


def test_a_file_that_vanishes_after_the_footers_were_read_is_named(files: list[str]) -> None:
    stream = Stream(files, IDS, rows_per_batch=8)
    Path(files[3]).unlink()
    with pytest.raises(RowGroupError, match=r"part-003.parquet, row group \d: FileNotFoundError"):
        drain(stream.epoch(0))


def test_a_file_that_changed_after_the_footers_were_read_is_named(files: list[str]) -> None:
    stream = Stream(files, IDS, rows_per_batch=8, shuffle=False)
    write_files(Path(files[0]).parent, [[20, 19, *[20] * 8]])
    with pytest.raises(RowGroupError, match=r"part-000.parquet: .* when its footer was read"):
        drain(stream.epoch(0))


def test_rows_before_a_broken_row_group_are_delivered_and_then_the_error_comes(
    files: list[str],
) -> None:
    stream = Stream(files, IDS, rows_per_batch=20, shuffle=False)
    Path(files[1]).unlink()
    batches = stream.epoch(0)
    assert [row_id for _ in range(10) for row_id in ids_of(next(batches))] == list(range(200))
    with pytest.raises(RowGroupError, match=r"part-001.parquet, row group 0"):
        next(batches)


def test_a_missing_column_is_named_with_those_that_are_there(files: list[str]) -> None:
    with pytest.raises(SchemaError, match=r"part-000.parquet: column 'dep_time': missing.*'num_a'"):
        Stream(files, BatchLayout(scalars={"x": "dep_time"}), rows_per_batch=8)


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        (BatchLayout(matrices={"m": ("num_a", "name")}), "column 'name': of type string"),
        (BatchLayout(matrices={"m": ("num_a", "cat_a")}), "int32 beside float32"),
        (BatchLayout(strings=("num_a",)), "column 'num_a': of type float"),
    ],
)
def test_a_column_of_a_wrong_type_is_named(
    files: list[str], layout: BatchLayout, problem: str
) -> None:
    with pytest.raises(SchemaError, match=problem):
        Stream(files, layout, rows_per_batch=8)


def test_a_retyped_column_in_one_of_the_files_is_named(files: list[str]) -> None:
    pq.write_table(pa.table({"id": ["one", "two"]}), files[2])
    with pytest.raises(SchemaError, match=r"part-002.parquet: column 'id': of type string"):
        Stream(files, IDS, rows_per_batch=8)


def test_a_list_is_refused_as_a_scalar(tmp_path: Path) -> None:
    files = write_column(tmp_path, pa.array([[1.0, 2.0]] * 5))
    with pytest.raises(SchemaError, match="a list, asked for as a scalar"):
        Stream(files, BatchLayout(scalars={"x": "x"}), rows_per_batch=8)


@pytest.mark.parametrize(
    "values", [[1.0] * 15 + [None], [[1.0, 2.0]] * 15 + [[1.0, None]], [[1.0, 2.0]] * 15 + [None]]
)
def test_a_null_in_a_dense_column_names_file_and_column(tmp_path: Path, values: list[Any]) -> None:
    files = write_column(tmp_path, pa.array(values))
    stream = Stream(files, BatchLayout(matrices={"x": ("x",)}), rows_per_batch=8)
    where = r"column.parquet, row group 1, column 'x': 1 of "
    with pytest.raises(NullValueError, match=where):
        list(stream.epoch(0))


def test_lists_of_changing_length_are_named(tmp_path: Path) -> None:
    files = write_column(tmp_path, pa.array([[1.0, 2.0]] * 15 + [[1.0]]))
    stream = Stream(files, BatchLayout(matrices={"x": ("x",)}), rows_per_batch=8)
    with pytest.raises(SchemaError, match=r"row group 1, column 'x': lists of 1 to 2 values"):
        list(stream.epoch(0))


def test_an_empty_layout_is_refused() -> None:
    with pytest.raises(PlanError, match="no column"):
        BatchLayout()
    with pytest.raises(PlanError, match="no column"):
        BatchLayout(matrices={"numeric": ()})
    with pytest.raises(PlanError, match="names two things"):
        BatchLayout(matrices={"x": ("a",)}, scalars={"x": "b"})


@pytest.fixture
def broken_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row group fails with a fault of ours, not of the file."""

    def broken(*_args: Any):
        raise ZeroDivisionError("decoder")

    monkeypatch.setattr(RowGroups, "whole", broken)


@pytest.mark.usefixtures("broken_decoder")
def test_any_exception_of_a_worker_names_file_and_row_group_and_leaves_no_thread(
    files: list[str],
) -> None:
    before = stream_threads()
    with pytest.raises(RowGroupError, match=r"row group \d: ZeroDivisionError: decoder") as caught:
        drain(Stream(files, IDS, rows_per_batch=8).epoch(0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert stream_threads() <= before


def test_close_in_the_middle_of_an_epoch_leaves_no_thread(files: list[str]) -> None:
    before = stream_threads()
    stream = Stream(files, IDS, rows_per_batch=8, shuffle_window_rows=16, workers_count=3)
    batches = stream.epoch(0)
    next(batches)
    assert len(stream_threads() - before) == 4  # 3 workers and the ventilator
    stream.close()
    assert stream_threads() <= before


def test_an_epoch_that_fails_while_it_is_read_ahead_says_so_when_it_is_asked_for(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, opened = stream_threads(), Stream._open

    def vanished(self: Stream, epoch: int, first_step: int):
        for file in files if epoch == 1 else []:
            Path(file).unlink()
        return opened(self, epoch, first_step)

    monkeypatch.setattr(Stream, "_open", vanished)
    stream = Stream(files, IDS, rows_per_batch=8)
    batches = stream.epoch(0, then=1)
    assert len(list(batches)) == 100
    with pytest.raises(RowGroupError, match="FileNotFoundError"):
        drain(stream.epoch(1))
    assert stream_threads() <= before


@pytest.mark.parametrize("steps", [1, 100])
def test_closing_ends_what_is_read_ahead(files: list[str], steps: int) -> None:
    before = stream_threads()
    stream = Stream(files, IDS, rows_per_batch=8)
    batches = stream.epoch(0, then=1)
    for _ in range(steps):
        next(batches)
    assert stream_threads() > before
    stream.close()
    assert stream_threads() <= before
    stream.close()


def test_an_epoch_that_is_left_ends_what_is_read_ahead(files: list[str]) -> None:
    before = stream_threads()
    stream = Stream(files, IDS, rows_per_batch=8)
    for _ in stream.epoch(0, then=1):
        assert stream_threads() > before
        break
    assert stream_threads() <= before


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_consumer_leaves_no_thread(
    files: list[str], kind: type[BaseException]
) -> None:
    before = stream_threads()

    def consume() -> None:
        with Stream(files, IDS, rows_per_batch=8, shuffle_window_rows=16) as stream:
            for batch in stream.epoch(0):
                raise kind(batch.step)

    with pytest.raises(kind):
        consume()
    assert stream_threads() <= before


def test_breaking_out_of_an_epoch_and_beginning_the_next_leaves_no_thread(files: list[str]) -> None:
    before = stream_threads()
    with Stream(files, IDS, rows_per_batch=8, shuffle_window_rows=16) as stream:
        abandoned = stream.epoch(0)
        next(abandoned)
        assert sorted(drain(stream.epoch(1))) == list(range(800))
        assert threading.active_count() >= len(before)
        assert stream_threads() <= before
