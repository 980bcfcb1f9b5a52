from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.errors import SourceError
from pipeline.sources import idx
from pipeline.sources.idx import lay_out
from tests.sources.idx_files import digits, idx_bytes, write_part


def deliver(folder: Path, **files: bytes) -> None:
    """Files of the part `train`: `images`, `labels` or a whole name in the place of either."""
    images, labels = digits()
    names = {"images": "train-images-idx3-ubyte", "labels": "train-labels-idx1-ubyte"}
    whole = {"images": idx_bytes(images[:50]), "labels": idx_bytes(labels[:50])}
    for kind, content in {**whole, **files}.items():
        (folder / names[kind]).write_bytes(content)


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def state(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def test_every_image_is_a_row_with_its_label_and_place(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "CHUNK_BYTES", 64 * 100)  # 100 rows
    monkeypatch.setattr(idx, "PIECE_BYTES", 1000)  # no multiple of a row
    images, labels = digits()
    write_part(raw, "train", images[:250], labels[:250])
    # Names with dots, nothing gzipped, sides of two lengths.
    wide = images[250:350, :5]
    (raw / "t10k.x-images.idx3-ubyte").write_bytes(idx_bytes(wide))
    (raw / "t10k.x-labels.idx1-ubyte").write_bytes(idx_bytes(labels[250:350]))
    (raw / ".train-images-idx3-ubyte").write_bytes(b"a copy in progress")
    (raw / "notes.txt").write_text("no idx file")
    folder = lay_out(raw, tmp_path / "lake" / "raw")
    files = {path.name.rpartition("-")[0]: path for path in folder.iterdir()}
    assert set(files) == {"train", "t10k.x"}
    for part, pictures, first in (("train", images[:250], 0), ("t10k.x", wide, 250)):
        assert rows_of(files[part]) == [
            {
                "part": part,
                "position": position,
                "label": int(labels[first + position]),
                "pixels": picture.tobytes(),
                "height": picture.shape[0],
                "width": 8,
            }
            for position, picture in enumerate(pictures)
        ]
    footer = pq.read_metadata(files["train"])
    assert [footer.row_group(n).num_rows for n in range(3)] == [100, 100, 50]


def test_files_are_laid_out_once_until_one_of_them_changes(raw: Path, tmp_path: Path) -> None:
    _, labels = digits()
    deliver(raw)
    first = lay_out(raw, tmp_path / "lake")
    before = state(first)
    assert lay_out(raw, tmp_path / "lake") == first
    assert state(first) == before
    # Elsewhere, or again: to a reader that goes by names, bytes and times they are the same.
    assert state(lay_out(raw, tmp_path / "other")) == before
    # Older labels of equal size, as a restored copy has: only the name can tell.
    path = raw / "train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(labels[100:150]))
    os.utime(path, (1, 1))
    second = lay_out(raw, tmp_path / "lake")
    (file,) = second.iterdir()
    assert [row["label"] for row in rows_of(file)] == labels[100:150].tolist()
    assert file.name not in before
    assert state(first) == before


WHOLE = idx_bytes(digits()[0][:50])
LABELS = idx_bytes(digits()[1][:50])
FAULTS = {
    "no magic": ({"images": b"\x89PNG" + WHOLE[4:]}, "begins with 89 50 4e 47, not 00 00 08"),
    "floats": ({"images": b"\0\0\x0d" + WHOLE[3:]}, "begins with 00 00 0d 03, not 00 00 08"),
    "two dimensions": (
        {"images": idx_bytes(digits()[0][:50].reshape(50, 64))},
        "train-images-idx3-ubyte: has 2 dimensions, not 3",
    ),
    "images for labels": ({"labels": WHOLE}, "labels-idx1-ubyte: has 3 dimensions, not 1"),
    "fewer labels": (
        {"labels": idx_bytes(digits()[1][:49])},
        "has 49 labels, and train-images-idx3-ubyte 50 images",
    ),
    "more values": ({"images": WHOLE + b"\0"}, "goes on after 50 x 8 x 8 values"),
    "more labels": ({"labels": LABELS + b"\0"}, "goes on after 50 values"),
    "flat images": ({"images": struct.pack(">4I", 0x803, 50, 0, 8)}, "has images of 0 x 8 values"),
    "huge images": (
        {"images": struct.pack(">4I", 0x803, 50, 2**31 - 1, 2**31 - 1)},
        "bytes too early: it is cut off",
    ),
    "empty": ({"images": b""}, "ends 4 bytes too early"),
    "half a header": ({"labels": LABELS[:6]}, "ends 2 bytes too early"),
    "half the labels": ({"labels": LABELS[:20]}, "ends 38 bytes too early"),
    "the last value": ({"images": WHOLE[:-1]}, "ends 1 bytes too early"),
    "gzip cut in its header": ({"images": gzip.compress(WHOLE)[:6]}, "cannot be read: "),
    "gzip cut in its data": ({"images": gzip.compress(WHOLE)[:700]}, "cannot be read: "),
    "gzip without its end": ({"images": gzip.compress(WHOLE)[:-8]}, "cannot be read: "),
    "gzip of another sum": (
        {"images": gzip.compress(WHOLE)[:-8] + bytes(4) + gzip.compress(WHOLE)[-4:]},
        "cannot be read: CRC",
    ),
    "gzip with a wrong byte": (
        {"labels": b"\x1f\x8b\x08\0" + bytes(6) + b"\xff" * 40},
        "train-labels-idx1-ubyte: cannot be read: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_named_and_nothing_is_written(
    raw: Path, tmp_path: Path, fault: str
) -> None:
    files, told = FAULTS[fault]
    # A good part before it is not written either.
    write_part(raw, "a", *(values[:10] for values in digits()))
    deliver(raw, **files)
    with pytest.raises(SourceError) as caught:
        lay_out(raw, tmp_path / "lake")
    assert told in str(caught.value)
    assert caught.value.where.startswith(f"file {raw}/train-")
    assert list((tmp_path / "lake").iterdir()) == []


@pytest.mark.parametrize(
    ("removed", "told"),
    [
        ("labels-idx1", "train-images-idx3-ubyte: has no labels .*train-labels-idx1-ubyte"),
        ("images-idx3", "train-labels-idx1-ubyte: has no images .*train-images-idx3-ubyte"),
    ],
)
def test_a_file_without_its_partner_is_named(
    raw: Path, tmp_path: Path, removed: str, told: str
) -> None:
    deliver(raw)
    (raw / f"train-{removed}-ubyte").unlink()
    with pytest.raises(SourceError, match=told):
        lay_out(raw, tmp_path / "lake")
    assert not (tmp_path / "lake").exists()


def test_two_files_of_one_part_are_refused(raw: Path, tmp_path: Path) -> None:
    deliver(raw)
    write_part(raw, "train", *digits())
    with pytest.raises(SourceError, match=r"ubyte\.gz: is beside train-images-idx3-ubyte"):
        lay_out(raw, tmp_path / "lake")


def test_a_part_that_spark_takes_for_a_pattern_is_refused(raw: Path, tmp_path: Path) -> None:
    write_part(raw, "train[1]", *digits())
    with pytest.raises(SourceError, match=r"'train\[1\]' is no name for a part"):
        lay_out(raw, tmp_path / "lake")


@pytest.mark.parametrize("place", ["", "missing", "notes.txt"])
def test_a_place_without_idx_files_is_named(raw: Path, tmp_path: Path, place: str) -> None:
    (raw / "notes.txt").write_text("no idx file")
    with pytest.raises(SourceError, match=r"^source\.path: there is no idx file in"):
        lay_out(raw / place, tmp_path / "lake")


def test_a_file_that_changes_while_it_is_read_is_refused(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(raw)
    written = idx._write_part

    def changed(part: idx.Part, path: Path) -> None:
        written(part, path)
        os.utime(part.labels, (5, 5))

    monkeypatch.setattr(idx, "_write_part", changed)
    with pytest.raises(SourceError, match="changed while read"):
        lay_out(raw, tmp_path / "lake")
    assert list((tmp_path / "lake").iterdir()) == []
