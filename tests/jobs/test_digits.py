"""The pipelines of images and mails from raw files to predictions, on data that clones have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipeline.config import load_pipeline
from pipeline.lake import Lake
from pipeline.operate.walk import walk
from pipeline.outcome import Outcome
from pipeline.session import CHECKOUT
from tests.sources.idx_files import digits, write_part

PIPELINES = CHECKOUT / "conf" / "pipelines"
TEST_ROWS = 297
SMALL = (
    "features.images.pixels.shape=[8,8]",
    "features.rows_per_row_group=32",
    "train.rows_per_batch=32",
    "train.max_restarts=0",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as MNIST is delivered."""
    folder = tmp_path_factory.mktemp("idx")
    images, labels = digits()
    write_part(folder, "train", images[TEST_ROWS:], labels[TEST_ROWS:])
    write_part(folder, "t10k", images[:TEST_ROWS], labels[:TEST_ROWS])
    return folder


def run(
    spark: SparkSession, name: str, source: Path, lake: Lake, changes: Sequence[str]
) -> dict[str, Outcome]:
    settings = [f"source.path={source}", f"lake={lake.root}", *changes]
    pipeline = load_pipeline(PIPELINES / f"{name}.yaml", settings)
    stages = ("clean", "featurize", "train", "score", "report")
    return {outcome.stage: outcome for outcome in walk(spark, pipeline, lake, stages)}


def predictions(lake: Lake, keys: Sequence[str]) -> pl.DataFrame:
    """Read by a second engine, each key once."""
    found = pl.read_delta(lake.table("predictions").root)
    cleaned = pl.read_delta(lake.table("clean").root)
    counted = Counter(found.select(keys).iter_rows())
    assert counted == Counter(cleaned.select(keys).iter_rows())
    assert set(counted.values()) == {1}
    return found


def test_the_reference_network_reads_digits(spark: SparkSession, folder: Path, lake: Lake) -> None:
    outcomes = run(
        spark, "mnist", folder, lake, (*SMALL, "train.epochs=15", "train.learning_rate=0.005")
    )
    assert outcomes["clean"].rows_in == outcomes["clean"].rows_out == len(digits()[1])
    found = predictions(lake, ["part", "position"])
    test = found.filter(pl.col("part") == "t10k").sort("position")
    truth = digits()[1][:TEST_ROWS]
    accuracy = (test["class"].cast(pl.Int64).to_numpy() == truth).mean()
    assert outcomes["train"].metrics["test"]["accuracy"] == pytest.approx(accuracy)
    assert accuracy > 0.85  # the first pictures are the hardest: 0.89 and 0.90 were seen
    shares = np.array(test["probabilities"].to_list())
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(shares.argmax(1), test["class"].cast(pl.Int64).to_numpy())
    np.testing.assert_allclose(shares.max(1), test["score"].to_numpy(), rtol=1e-6)


@pytest.mark.long
def test_convolutions_read_digits(spark: SparkSession, folder: Path, lake: Lake) -> None:
    changes = (*SMALL, "train.epochs=12", "train.learning_rate=0.01", "train.workers=2")
    outcomes = run(spark, "mnist-cnn", folder, lake, changes)
    assert outcomes["train"].metrics["test"]["accuracy"] > 0.93
    assert len(predictions(lake, ["part", "position"])) == len(digits()[1])


@pytest.mark.long
def test_an_autoencoder_finds_what_is_no_digit(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    images, labels = digits()
    strange = np.random.default_rng(5).integers(0, 256, (50, 8, 8)).astype(np.uint8)
    source = tmp_path / "idx"
    write_part(source, "train", images, labels)
    write_part(source, "t10k", strange, np.zeros(50, np.uint8))
    changes = (*SMALL, "train.epochs=10", "train.model.hidden=[64]", "train.model.latent=6")
    outcomes = run(spark, "mnist-vae", source, lake, changes)
    assert outcomes["train"].metrics["validation"]["loss"] < 64 * np.log(2)
    found = predictions(lake, ["part", "position"])
    assert set(found["latent"].list.len()) == {6}
    usual = found.filter(pl.col("part") == "train")["score"]
    unusual = found.filter(pl.col("part") == "t10k")["score"]
    assert np.mean(unusual.to_numpy() > np.quantile(usual.to_numpy(), 0.99)) > 0.9


@pytest.mark.long
def test_a_recurrent_network_tells_spam_by_its_words(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    words = np.array([f"word{n}" for n in range(60)])
    rows = []
    for number in range(1200):
        spam = bool(random.random() < 0.4)
        # Half of spam's words come from the last third of the vocabulary.
        text = random.choice(words[40:] if spam and number % 2 else words, random.integers(5, 60))
        text = np.append(text, "winner" if spam else "meeting")
        head = f"From: a@b\r\nSubject: mail {number}\r\n\r\n"
        raw = f"{head}<p>{' '.join(random.permutation(text))}</p>".encode()
        rows.append((f"{'spam' if spam else 'easy-ham'}-1", f"{number:05d}", raw))
    table = pa.table(dict(zip(("group", "file", "raw"), zip(*rows, strict=True), strict=True)))
    pq.write_table(table, tmp_path / "mails.parquet")
    changes = ("train.epochs=6", "train.learning_rate=0.01", "train.max_restarts=0")
    outcomes = run(spark, "spam", tmp_path / "mails.parquet", lake, changes)
    assert outcomes["train"].metrics["test"]["auroc"] > 0.95
    assert len(predictions(lake, ["file"])) == 1200
