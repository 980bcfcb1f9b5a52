"""The pipelines of flights-3m and retail on their real data, against plain Polars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from polars import col
from polars.testing import assert_frame_equal
from pyspark.sql import SparkSession

from pipeline.clean.stage import clean
from pipeline.config import load_pipeline
from pipeline.lake import Lake
from pipeline.outcome import Outcome
from pipeline.session import CHECKOUT

PIPELINES = CHECKOUT / "conf" / "pipelines"
SHARED = CHECKOUT.parent / "shared" / "data"
FLIGHTS, RETAIL = SHARED / "flights_3m.parquet", SHARED / "online_retail_542k.parquet"
HERE = FLIGHTS.is_file() and RETAIL.is_file()
pytestmark = pytest.mark.skipif(not HERE, reason="the shared data is not here")
SEED = 13


@dataclass(frozen=True)
class Truth:
    """What becomes of raw rows, found with Polars alone."""

    clean: pl.DataFrame
    """Raw rows that are accepted, with their position in the file."""
    quarantine: pl.DataFrame
    """Position and reasons of the rows that are rejected."""
    dropped: Counter[str]
    """Rows dropped by the first reason of each."""

    def counts(self) -> dict[str, int]:
        """Rows by reason, named as stage clean names them."""
        by_reason = Counter(self.quarantine["reasons"].explode().to_list())
        return {f"quarantine {name}": n for name, n in by_reason.items()} | {
            f"dropped {name}": n for name, n in self.dropped.items()
        }


def truth_of(
    raw: pl.DataFrame,
    *,
    quarantining: Mapping[str, pl.Expr],
    dropping: Mapping[str, pl.Expr],
    same: Sequence[str] = (),
) -> Truth:
    """Sorts raw rows.

    Args:
        raw: Raw rows in the file's order.
        quarantining: Reasons that quarantine a row.
        dropping: Reasons that drop a row that is not quarantined.
        same: Columns by which an accepted row is a copy of another; the last of them stays.
    """
    faults = {**quarantining, **dropping}
    named = [pl.when(fault).then(pl.lit(name)) for name, fault in faults.items()]
    rows = raw.with_columns(
        position=pl.int_range(pl.len()), reasons=pl.concat_list(named).list.drop_nulls()
    )
    is_bad = col("reasons").list.set_intersection([*quarantining]).list.len() > 0
    bad, left = rows.filter(is_bad), rows.filter(~is_bad)
    gone = left.filter(col("reasons").list.len() > 0)
    left = left.filter(col("reasons").list.len() == 0)
    kept = left.unique(same, keep="last") if same else left
    copies = left.join(kept, on="position", how="anti").with_columns(reasons=pl.lit(["duplicate"]))
    quarantine = pl.concat([bad, copies]).select("position", "reasons")
    return Truth(kept, quarantine, Counter(gone["reasons"].list.first().to_list()))


def flights(raw: pl.DataFrame) -> Truth:
    return truth_of(
        raw,
        quarantining={"rule:delay_is_plausible": ~col("delay").is_between(-120, 1379)},
        dropping={"rule:flight_goes_somewhere": col("origin") == col("destination")},
    )


def retail(raw: pl.DataFrame) -> Truth:
    returned = col("InvoiceNo").str.head(1) == "C"
    code, pieces = col("StockCode"), col("Quantity")
    goods = code.str.contains(r"^\d\d\d\d\d") | code.str.head(4).is_in(["DCGS", "PADS"])
    return truth_of(
        raw,
        quarantining={
            "required:customer_id": col("CustomerID").is_null(),
            "rule:price_is_positive": col("UnitPrice") <= 0,
            "rule:quantity_is_positive": (pieces <= 0) & ~returned,
            "rule:quantity_is_plausible": (pieces >= 10_000) | (pieces <= -10_000),
        },
        dropping={"rule:invoice_is_a_sale": returned, "rule:line_is_an_article": ~goods},
        same=raw.columns,
    )


def cleaned(
    spark: SparkSession, lake: Lake, name: str, source: Path
) -> tuple[Outcome, pl.DataFrame, pl.DataFrame]:
    """The outcome and the tables `clean` and `quarantine`, after checking that no row is lost."""
    pipeline = load_pipeline(
        PIPELINES / f"{name}.yaml", [f"source.path={source}", f"lake={lake.root}"]
    )
    done = clean(spark, pipeline, lake)
    good, bad = (pl.read_delta(lake.table(table).root) for table in ("clean", "quarantine"))
    assert (done.rows_out, done.rows_quarantined) == (good.height, bad.height)
    assert done.rows_in == pl.read_parquet(source).height
    assert done.rows_in == good.height + bad.height + done.rows_dropped
    return done, good, bad


def agrees(done: Outcome, bad: pl.DataFrame, truth: Truth) -> None:
    """Counts by reason, and of each quarantined row its place and its reasons."""
    rejected = {n: rows for n, rows in done.counts.items() if not n.startswith("warned")}
    assert rejected == truth.counts()
    assert done.rows_dropped == truth.dropped.total()
    found = bad.select(position="source_position", reasons="reasons")
    assert_frame_equal(found, truth.quarantine, check_row_order=False)


def flights_agree(spark: SparkSession, lake: Lake, source: Path) -> Truth:
    truth = flights(pl.read_parquet(source))
    done, good, bad = cleaned(spark, lake, "flights-3m", source)
    agrees(done, bad, truth)
    assert (
        done.counts["warned distance_is_flown_by_airlines"]
        == truth.clean.filter(col("distance") < 50).height
    )
    rows = truth.clean.select(
        row_id=pl.format(source.name + "#{}", "position"),
        departure="date",
        delay=col("delay").cast(pl.Int32),
        distance=col("distance").cast(pl.Int32),
        origin="origin",
        destination="destination",
        period=(col("date") - pl.duration(minutes=1)).dt.strftime("%Y-%m"),
    )
    assert_frame_equal(good.select(rows.columns), rows, check_row_order=False)
    return truth


def retail_agrees(spark: SparkSession, lake: Lake, source: Path) -> Truth:
    truth = retail(pl.read_parquet(source))
    done, good, bad = cleaned(spark, lake, "retail", source)
    agrees(done, bad, truth)
    assert good["row_id"].n_unique() == good.height
    lines = truth.clean.select(
        invoice="InvoiceNo",
        stock_code="StockCode",
        description="Description",
        quantity=col("Quantity").cast(pl.Int32),
        invoiced=col("InvoiceDate").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us"),
        unit_price="UnitPrice",
        customer_id=col("CustomerID").cast(pl.Int32),
        country="Country",
        period=col("InvoiceDate").str.head(7),
    )
    assert_frame_equal(good.select(lines.columns), lines, check_row_order=False)
    return truth


def test_some_invoices_are_cleaned_as_polars_would(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    raw = pl.read_parquet(RETAIL)
    # Whole invoices, as copies of a line are in the same one.
    some = raw["InvoiceNo"].unique(maintain_order=True).sample(fraction=0.03, seed=SEED)
    raw.filter(col("InvoiceNo").is_in(some.implode())).write_parquet(tmp_path / "lines.parquet")
    truth = retail_agrees(spark, lake, tmp_path / "lines.parquet")
    assert {"quarantine duplicate", "dropped rule:invoice_is_a_sale"} <= truth.counts().keys()


def test_some_flights_are_cleaned_as_polars_would(
    spark: SparkSession, lake: Lake, tmp_path: Path
) -> None:
    raw = pl.read_parquet(FLIGHTS).with_row_index()
    some = raw.sample(10_000, seed=SEED)["index"]
    chosen = col("index").is_in(some.implode()) | (col("delay").abs() > 1_000)
    raw.filter(chosen).drop("index").write_parquet(tmp_path / "flights.parquet")
    truth = flights_agree(spark, lake, tmp_path / "flights.parquet")
    assert truth.quarantine.height == 33  # all but the two that were 212 and 953 minutes early


@pytest.mark.long
def test_all_invoices_are_cleaned_as_polars_would(spark: SparkSession, lake: Lake) -> None:
    truth = retail_agrees(spark, lake, RETAIL)
    assert truth.clean.height == 391_151


@pytest.mark.long
def test_all_flights_are_cleaned_as_polars_would(spark: SparkSession, lake: Lake) -> None:
    truth = flights_agree(spark, lake, FLIGHTS)
    assert truth.clean.height == 2_999_965
