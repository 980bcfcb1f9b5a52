from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.config import Files, Pipeline, load_pipeline
from pipeline.errors import ConfigError, SchemaError, SourceError, SpecError
from pipeline.features.spec import FeatureSpec
from pipeline.features.stage import featurize
from pipeline.lake import Lake
from pipeline.sources.formats import open_rows
from tests.clean import examples
from tests.sources.idx_files import digits, write_part

PIPELINES = Path(__file__).parents[2] / "conf" / "pipelines"
IMAGES, LABELS = digits()
TRAIN, TEST = slice(0, 240), slice(240, 300)


def described(root: Path, *overrides: str, name: str = "mnist") -> Pipeline:
    return load_pipeline(
        PIPELINES / f"{name}.yaml",
        [
            f"lake={root / 'lake'}",
            f"source.path={root / 'idx'}",
            "features.images.pixels.shape=[8,8]",
            "features.rows_per_row_group=50",
            # Those of the file may be tuned.
            "features.splits.train=part = 'train' AND position % 12 > 0",
            "features.splits.validation=part = 'train' AND position % 12 = 0",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def made(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Lake, FeatureSpec]:
    """A lake with the tables of 300 digits; tests leave its tables as they are."""
    root = tmp_path_factory.mktemp("images")
    write_part(root / "idx", "train", IMAGES[TRAIN], LABELS[TRAIN])
    write_part(root / "idx", "t10k", IMAGES[TEST], LABELS[TEST])
    pipeline = described(root, "clean.rules.some_ink.check=pixels <> X'00'",
                         "clean.rules.some_ink.action=warn")  # fmt: skip
    lake = Lake(pipeline.lake)
    done = clean(spark, pipeline, lake)
    assert (done.rows_in, done.rows_out, done.unchanged) == (300, 300, False)
    assert clean(spark, pipeline, lake).unchanged
    made_features, spec = featurize(spark, pipeline, lake)
    assert (made_features.rows_out, made_features.counts) == (
        300,
        {"train": 220, "validation": 20, "test": 60},
    )
    return root, lake, spec


def test_each_picture_comes_with_its_digit_into_its_split(
    made: tuple[Path, Lake, FeatureSpec],
) -> None:
    _, lake, spec = made
    rows = examples.table(lake, spec.table)
    kinds = rows.schema
    assert kinds["digit"] == pl.Int32
    assert kinds["image_pixels"] == pl.Binary
    assert rows.columns == ["part", "position", "digit", "image_pixels", "split", "period"]
    found = {(row["part"], row["position"]): row for row in rows.iter_rows(named=True)}
    for part, place in (("train", TRAIN), ("t10k", TEST)):
        for position, (image, label) in enumerate(zip(IMAGES[place], LABELS[place], strict=True)):
            row = found.pop((part, position))
            assert (row["image_pixels"], row["digit"]) == (image.tobytes(), int(label))
            split = "validation" if position % 12 == 0 else "train"
            assert row["split"] == (split if part == "train" else "test")
    assert found == {}


def test_images_lie_without_dictionaries(made: tuple[Path, Lake, FeatureSpec]) -> None:
    _, lake, spec = made
    for uri in lake.table(spec.table).snapshot().uris():
        footer = pq.read_metadata(uri)
        groups = [footer.row_group(place) for place in range(footer.num_row_groups)]
        assert [group.num_rows for group in groups[:-1]] == [50] * (len(groups) - 1)
        columns = [group.column(place) for group in groups for place in range(group.num_columns)]
        plain = {c.path_in_schema for c in columns if not c.has_dictionary_page}
        assert {"image_pixels", "digit"} <= plain


def test_a_picture_of_another_size_commits_nothing(
    spark: SparkSession, made: tuple[Path, Lake, FeatureSpec]
) -> None:
    root, lake, _ = made
    files = examples.files_below(Path(lake.root))
    # One of another length, and one that is null: neither is a train row.
    derived = """CASE WHEN part = 'train' OR position > 4 THEN pixels
        WHEN position < 3 THEN pixels WHEN position = 3 THEN X'00' END"""
    told = (
        r"^features\.images\.shown: is not 64 bytes \(8 x 8\) in 2 of 300 rows\. Nothing was "
        r"committed; .*rule under clean\.rules: length\(shown\) = 64"
    )
    with pytest.raises(SpecError, match=told):
        featurize(spark, _with_images(root, derived, {"shape": [8, 8]}), lake)
    left = examples.files_below(Path(lake.root)) - files
    assert all("_delta_log" in path or path.startswith("specs") for path in left)


def _with_images(root: Path, derived: str, how: dict[str, Any]) -> Pipeline:
    pipeline = described(root)
    section = pipeline.features.model_dump()
    section.update(derive={"shown": derived}, images={"shown": how})
    changed = type(pipeline.features).model_validate(section)
    return pipeline.model_copy(update={"features": changed})


def test_compressed_pictures_may_have_any_length(
    spark: SparkSession, made: tuple[Path, Lake, FeatureSpec]
) -> None:
    root, lake, _ = made
    png = {"shape": [8, 8], "encoding": "png"}
    some = "substring(pixels, 1, 1 + position % 64)"
    done, spec = featurize(spark, _with_images(root, some, png), lake)
    assert done.rows_out == 300
    lengths = examples.table(lake, spec.table)["image_shown"].bin.size().to_list()
    assert set(lengths) == set(range(1, 65))
    with pytest.raises(SpecError, match=r"is null in 2 of 300 rows.*rule .*shown IS NOT NULL"):
        featurize(spark, _with_images(root, f"IF(position = 7, NULL, {some})", png), lake)


def test_an_autoencoder_has_pictures_and_no_label(
    spark: SparkSession, made: tuple[Path, Lake, FeatureSpec]
) -> None:
    root, lake, _ = made
    done, spec = featurize(spark, described(root, name="mnist-vae"), lake)
    assert done.counts == {"train": 220, "validation": 20, "test": 60}
    rows = examples.table(lake, spec.table)
    assert rows.columns == ["part", "position", "image_pixels", "split", "period"]


def test_other_labels_are_another_run_and_bad_ones_go_to_quarantine(
    spark: SparkSession, tmp_path: Path
) -> None:
    write_part(tmp_path / "idx", "train", IMAGES[:30], LABELS[:30])
    pipeline = described(tmp_path)
    lake = Lake(pipeline.lake)
    first = clean(spark, pipeline, lake)
    labels = LABELS[:30].copy()
    labels[4] = 77
    write_part(tmp_path / "idx", "train", IMAGES[:30], labels)
    second = clean(spark, pipeline, lake)
    assert (second.version, second.unchanged) == (first.version + 1, False)
    assert (second.rows_in, second.rows_out, second.rows_quarantined) == (30, 29, 1)
    (row,) = examples.table(lake, "quarantine").iter_rows(named=True)
    assert row["reasons"] == ["rule:label_is_a_digit"]
    assert row["source_position"] == 4
    assert row["source_file"].startswith("train-")
    assert base64.b64decode(json.loads(row["row"])["pixels"]) == IMAGES[4].tobytes()
    # A damaged delivery leaves the tables, and the rows laid out before, as they are.
    before = examples.files_below(Path(lake.root))
    path = tmp_path / "idx" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SourceError, match=r"train-labels-idx1-ubyte\.gz: cannot be read"):
        clean(spark, pipeline, lake)
    assert examples.files_below(Path(lake.root)) == before


def test_bytes_come_from_bytes_alone(spark: SparkSession, tmp_path: Path) -> None:
    pictures = [np.arange(9, dtype=np.uint8).tobytes(), None, b"\xff\x00"]
    changes = {
        "source.columns": {
            "id": {"type": "bigint", "required": True},
            "picture": {"type": "binary"},
        },
        "clean.period": {"column": "period", "expression": "hex(substring(picture, 1, 1))"},
        "features": {
            "keys": ["id"],
            "label": {"task": "reconstruction"},
            "splits": {"train": "true", "validation": "false", "test": "false"},
            "leakage": [],
            "images": {"picture": {"shape": [3, 3]}},
        },
        "train": {"model": {"family": "vae"}},
    }
    pipeline = examples.pipeline(tmp_path, changes)
    for name, kind in (("a", pa.binary()), ("b", pa.large_binary())):
        schema = pa.schema([("id", pa.int64()), ("picture", kind)])
        rows = [{"id": 2 * n + (name == "b"), "picture": p} for n, p in enumerate(pictures)]
        examples.write_raw(tmp_path / "raw" / f"{name}.parquet", rows, schema)
    lake = Lake(pipeline.lake)
    clean(spark, pipeline, lake)
    kept = examples.table(lake, "clean").sort("id")["picture"].to_list()
    assert kept == [picture for picture in pictures for _ in range(2)]
    measures = examples.table(lake, "quality").filter(pl.col("subject") == "picture")
    assert measures.select("measure", "value").rows() == [("nulls", 2.0)]

    text = pa.schema([("id", pa.int64()), ("picture", pa.string())])
    examples.write_raw(tmp_path / "raw" / "c.parquet", [{"id": 1, "picture": "x"}], text)
    with pytest.raises(SchemaError, match="column picture: has type string, which cannot be cast"):
        clean(spark, pipeline, lake)
    with pytest.raises(ConfigError, match=r"columns\.picture\.type: is binary, and csv files hold"):
        open_rows(
            spark,
            Files.model_validate(
                {**pipeline.source.model_dump(exclude={"sample"}), "format": "csv"}
            ),
            "source",
            pipeline.storage,
        )


@pytest.mark.parametrize("name", ["mnist", "mnist-cnn", "mnist-vae"])
def test_each_pipeline_of_pictures_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAKESTORM_LAKE", raising=False)
    pipeline = load_pipeline(PIPELINES / f"{name}.yaml")
    assert (pipeline.lake, pipeline.name) == (f"lake-{name}", name.replace("-", "_"))
    assert pipeline.source == load_pipeline(PIPELINES / "mnist.yaml").source
    assert pipeline.clean == load_pipeline(PIPELINES / "mnist.yaml").clean
