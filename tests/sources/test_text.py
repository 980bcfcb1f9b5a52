from __future__ import annotations

import bz2
import csv
import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from pipeline.errors import ConfigError, SchemaError, SourceError
from pipeline.sources.objects import Objects
from pipeline.sources.quoting import Quoting
from pipeline.sources.wholeness import fault_of
from tests.sources.reads import faults, opened, read, section, values

COLUMNS = {"id": "int", "note": "string"}


def records(count: int) -> list[list[str]]:
    """Every third note has quotes and a line break."""
    return [
        [str(n), f'said "{n}"\nand, then, left' if n % 3 == 0 else f"plain {n}"]
        for n in range(count)
    ]


def write_csv(path: Path, rows: list[list[str]], **options: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator=options.get("end", "\n"))
        writer.writerows([list(COLUMNS), *rows])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_records_that_hold_line_breaks_and_quotes_come_whole(
    spark: SparkSession, tmp_path: Path, end: str
) -> None:
    write_csv(tmp_path / "a.csv", records(100), end=end)
    wanted = [(int(n), note) for n, note in records(100)]
    assert values(spark, section(tmp_path, COLUMNS, format="csv")) == wanted


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('id,note\n1,"open\n2,plain\n', 2),
        ('id,note\n1,a\n2,"open\n3,"closed"\n', 3),
        ('id,note\n1,"a"\n2,"a\n"b\n', 3),
        ('id,note\n1,"""\n2,b\n', 2),
        ('id,note\n1,b\n2,"b"x\n', 3),
    ],
)
def test_a_quote_that_is_left_open_is_named_with_its_line(
    spark: SparkSession, tmp_path: Path, text: str, line: int
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(
        SourceError, match=rf"a\.csv: leaves a quote open, or has text .* in line {line}\."
    ):
        read(spark, section(tmp_path, COLUMNS, format="csv"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id,note\n1,a\r\n2,b\n", "several ways: CR LF, LF"),
        (b"id,note\r\n1,a\n2,b\r\n", "several ways: CR LF, LF"),
        (b"id,note\n1,a\rb\n", "several ways: CR, LF"),
        (b'id,note\r\n1,"a\nb"\r\n2,"c\rd"\r\n', None),
        (b'id,note\n1,"a\r\nb"\n', None),
        (b"id,note\r1,a\r", None),
        (b"id,note\r\n1,a", None),
    ],
)
def test_lines_that_end_in_several_ways_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, told: str | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for size in (1, 2, 3, 7, 1 << 20):
        monkeypatch.setattr("pipeline.sources.wholeness._CHUNK_BYTES", size)
        fault = fault_of(str(path), None, None, Quoting())
        assert (fault is None) == (told is None), (size, fault)
        if fault is not None and told is not None:
            assert told in fault.problem


def test_quotes_inside_of_plain_values_are_kept(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,note\n1,5" pipe\n3,"say ""hi"""\n4, "padded"\n')
    notes = [note for _, note in values(spark, section(tmp_path, COLUMNS, format="csv"))]
    assert notes == ['5" pipe', 'say "hi"', ' "padded"']


def test_a_line_break_inside_of_quotes_is_refused_where_lines_are_records(
    spark: SparkSession, tmp_path: Path
) -> None:
    write_csv(tmp_path / "a.csv", records(10))
    by_line = section(tmp_path, COLUMNS, format="csv", options={"multiLine": "false"})
    with pytest.raises(SourceError, match="line break inside of quotes in line 2"):
        read(spark, by_line)
    write_csv(tmp_path / "a.csv", records(3)[1:])
    assert values(spark, by_line) == [(1, "plain 1"), (2, "plain 2")]


def test_options_come_before_the_rfc(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;note\n1;'it\\'s'\n")
    options = {"sep": ";", "quote": "'", "escape": "\\"}
    files = section(tmp_path, COLUMNS, format="csv", options=options)
    assert values(spark, files) == [(1, "it's")]
    (tmp_path / "a.csv").write_text('id,note\n1,"open\n2,b\n')
    files = section(tmp_path, COLUMNS, format="csv", options={"quote": ""})
    assert values(spark, files) == [(1, '"open'), (2, "b")]


@pytest.mark.parametrize(
    "case",
    [
        ("café".encode("latin-1"), "is not UTF-8: byte 0xE9 at offset", "ISO-8859-1"),
        (b"x" + b"y" * (9 << 20) + b"\xe9", "is not UTF-8: byte 0xE9", "windows-1252"),
        ("café".encode("utf-16"), "is UTF-16, by its first bytes", "UTF-16"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_another_encoding_is_told_and_named(
    spark: SparkSession, tmp_path: Path, kind: str, case: tuple[bytes, str, str]
) -> None:
    content, told, encoding = case
    wide = encoding == "UTF-16"
    before, after = ("id,note\n1,", "\n") if kind == "csv" else ('{"id": 1, "note": "', '"}\n')
    parts = [part.encode("utf-16-le" if wide else "ascii") for part in (before, after)]
    mark, body = (content[:2], content[2:]) if wide else (b"", content)
    (tmp_path / f"a.{kind}").write_bytes(mark + parts[0] + body + parts[1])
    with pytest.raises(SourceError, match=told):
        read(spark, section(tmp_path, COLUMNS, format=kind))
    options = {"encoding": encoding}
    if kind == "json":
        # Spark tells lines of JSON apart by their bytes, and takes no mark before the first.
        (tmp_path / "a.json").write_bytes(parts[0] + body + parts[1])
        options = {"encoding": "UTF-16LE" if wide else encoding, "lineSep": "\n"}
    (row,) = read(spark, section(tmp_path, COLUMNS, format=kind, options=options))
    assert row["note"] == content.decode(encoding)


def test_a_byte_order_mark_is_no_part_of_the_first_name(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes('\ufeff"id",note\n1,é\n'.encode())
    assert values(spark, section(tmp_path, COLUMNS, format="csv")) == [(1, "é")]


def test_files_are_taken_by_every_usual_ending(spark: SparkSession, tmp_path: Path) -> None:
    line, text = b'{"id": 1, "note": "a"}\n', b"id,note\n1,a\n"

    def packed(content: bytes, ending: str) -> bytes:
        if ending == ".zst":
            sink = pa.BufferOutputStream()
            with pa.CompressedOutputStream(sink, "zstd") as stream:
                stream.write(content)
            return bytes(sink.getvalue())
        return {".gz": gzip.compress(content), ".bz2": bz2.compress(content), "": content}[ending]

    for ending in ("", ".gz", ".bz2", ".zst"):
        for name in ("json", "jsonl", "ndjson"):
            (tmp_path / f"a.{name}{ending}").write_bytes(packed(line, ending))
        (tmp_path / f"a.csv{ending}").write_bytes(packed(text, ending))
    (tmp_path / "B.CSV").write_bytes(text)
    assert values(spark, section(tmp_path, COLUMNS, format="json")) == [(1, "a")] * 12
    assert values(spark, section(tmp_path, COLUMNS, format="csv")) == [(1, "a")] * 5


def test_another_separator_is_guessed_in_the_message(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;note\n1;a\n")
    with pytest.raises(SchemaError, match=r'one column only.*set options: \{sep: ";"\}'):
        read(spark, section(tmp_path, COLUMNS, format="csv"))


def test_without_a_header_columns_are_the_contracts(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,a\n2,b,c\n")
    files = section(tmp_path, COLUMNS, format="csv", options={"header": "false"})
    assert faults(spark, files) == [[], ["malformed"]]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.zst"])
def test_a_damaged_archive_is_named(spark: SparkSession, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(SourceError, match=rf"file .*{name}: cannot be read"):
        opened(spark, section(tmp_path, COLUMNS, format="csv")).matches()


pieces = st.sampled_from(["a", "b", '"', '""', ",", "\n", "\r\n", "\r", " ", "é", "x,y"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow,
          HealthCheck.function_scoped_fixture])  # fmt: skip
@given(rows=st.lists(st.lists(st.lists(pieces, max_size=6).map("".join), min_size=2, max_size=3)))
def test_what_a_csv_writer_wrote_is_whole(tmp_path: Path, rows: list[list[str]]) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    assert fault_of(str(path), None, None, Quoting()) is None


@settings(max_examples=300, deadline=None, suppress_health_check=[
          HealthCheck.function_scoped_fixture])  # fmt: skip
@given(before=st.lists(pieces.filter(lambda each: '"' not in each), max_size=5).map("".join))
def test_what_opens_a_quote_and_ends_is_not_whole(tmp_path: Path, before: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'id,note\n1,"{before}\n2,b\n', newline="")
    fault = fault_of(str(path), None, None, Quoting())
    assert fault is not None
    assert "leaves a quote open" in fault.problem


def test_a_quote_at_the_edge_of_a_piece_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,note\n1,"a ""b""\nc"\n2,"é, d"\n' * 3)
    broken = tmp_path / "b.csv"
    broken.write_text('id,note\n1,"a ""b\nc"x\n2,"é, d"\n' * 3)
    for size in range(1, 40):
        monkeypatch.setattr("pipeline.sources.wholeness._CHUNK_BYTES", size)
        assert fault_of(str(path), None, None, Quoting()) is None
        assert fault_of(str(broken), None, None, Quoting()) is not None


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ('{"id": 2} {"id": 3}', "something behind its object in line 2"),
        ('{"id": 2},{"id": 3}', "something behind its object in line 2"),
        ('{"id": 2}\u2028{"id": 3}', "something behind its object in line 2"),
        ('{"id": 2} and more', "something behind its object in line 2"),
        ('{"note": "\\ud800"}', "half a character .* in line 2"),
        ('{"note": "\\udc00x"}', "half a character .* in line 2"),
        ('{"id": 2, "note": "} {"}', None),
        ('{"id": 2, "note": "\\"} {"}  ', None),
        ('{"id": 2, "note": "\\\\"}', None),
        ('{"note": "\\ud83d\\ude00"}', None),
        ('{"note": {"a": [1, {"b": 2}]}}', None),
        ("{broken", None),
        ('{"note": "open}', None),
        ("", None),
        ("7", None),
    ],
)
def test_a_line_of_json_holds_one_object(
    spark: SparkSession, tmp_path: Path, second: str, told: str | None
) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'{{"id": 1}}\n{second}\n{{"id": 9}}\n')
    if told is None:
        assert fault_of(str(path), None, None, Objects()) is None
        return
    with pytest.raises(SourceError, match=rf"a\.json: has {told}"):
        read(spark, section(tmp_path, COLUMNS, format="json"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"comment": "#"}, '# "said\nid,note\n1,"open\n2,b\n'),
        ({"escape": ""}, 'id,note\n1,"open\n2,b\n'),
        ({"escape": "\\"}, 'id,note\n1,C:\\\n2,"open\n3,b\n'),
    ],
)
def test_an_open_quote_is_told_under_other_options_too(
    spark: SparkSession, tmp_path: Path, options: dict[str, str], text: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SourceError, match="leaves a quote open"):
        read(spark, section(tmp_path, COLUMNS, format="csv", options=options))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sep": "\\t"}, "id\tnote\n1\ta\n"),
        ({"sep": "||"}, "id||note\n1||a\n"),
        ({"quote": "'"}, "'id','note'\n1,'a'\n"),
        ({"comment": "#"}, "# exported\nid,note\n#1,x\n1,a\n"),
    ],
)
def test_headers_are_read_as_the_options_say(
    spark: SparkSession, tmp_path: Path, options: dict[str, str], text: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    files = section(tmp_path, COLUMNS, format="csv", options=options)
    assert values(spark, files) == [(1, "a")]


@pytest.mark.parametrize("options", [{"quote": "''"}, {"path": "/"}, {"allowComments": "true"}])
def test_options_that_cannot_be_are_refused(
    spark: SparkSession, tmp_path: Path, options: dict[str, str]
) -> None:
    write_csv(tmp_path / "a.csv", records(3))
    with pytest.raises(ConfigError, match=r"source\.options"):
        opened(spark, section(tmp_path, COLUMNS, format="csv", options=options))


def test_a_file_of_json_holds_one_value_under_multi_line(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1,\n "note": "a"},\n {"id": 2, "note": "b"}]\n')
    files = section(tmp_path, COLUMNS, format="json", options={"multiLine": "true"})
    assert values(spark, files) == [(1, "a"), (2, "b")]
    path.write_text('{"id": 1, "note": "a"}\n{"id": 2, "note": "b"}\n')
    with pytest.raises(SourceError, match=r"something behind its object in line 2"):
        read(spark, files)


def test_numbers_inside_of_objects_keep_their_digits(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"u": {"d": 12345678901234567.89}, "l": [1.005]}\n')
    columns = {
        "d": {"type": "decimal(38,2)", "from": "u.d"},
        "l": {"type": "array<decimal(12,2)>"},
    }
    (row,) = read(spark, section(tmp_path, columns, format="json"))
    assert str(row["d"]) == "12345678901234567.89"
    assert row["_reasons"] == ["cast:l"]
