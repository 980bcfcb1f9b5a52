"""Raw rows of any number, made on Spark: flights, some of them late, broken or delivered twice.

A row's values follow from its place in a block of 100,000 rows, its time and its key from its
number. Blocks are alike but for those, so that every size has the same quantities in the same
proportion, and the spec fitted at one size is, digit for digit, the spec of every other: one model
scores them all, and how many rows go where is known before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from pipeline.config import Pipeline, load_pipeline

SEED = 13
BLOCK_ROWS = 100_000
FILE_ROWS = 250_000
PERIOD_ROWS = 1_000_000
FIRST_MONTH = "2000-01-01"
SECONDS_PER_ROW = 2  # a month of 1,000,000 rows: 23 days

# Of a block, every so manieth row has a fault; no two of the places meet.
UNREADABLE_EVERY = 1_000
"""Fares of text that is no number, to be quarantined; from place 1 on."""
ABSENT_EVERY = 1_000
"""Keys that are missing; from place 2 on."""
IMPOSSIBLE_EVERY = 500
"""Distances that a rule refuses; from place 3 on."""
TRIAL_EVERY = 250
"""Flights that a rule drops; from place 4 on."""
AGAIN_EVERY = 200
"""Rows of the block's second half that are a newer state of a row of the first; from place 99."""

PIPELINE = f"""
name: scale
lake: lake
seed: {SEED}
source:
  path: ${{lake}}/raw
  format: parquet
  columns:
    flight: {{type: bigint, required: true}}
    departs: {{type: timestamp, required: true}}
    updated: {{type: timestamp, required: true}}
    carrier: {{type: string, required: true}}
    origin: {{type: string, required: true}}
    dest: {{type: string, required: true}}
    distance: {{type: double, required: true}}
    fare: {{type: double}}
    seats: {{type: int}}
    booked: {{type: int}}
    temperature: {{type: double}}
    wind: {{type: double}}
    delay: {{type: double, required: true}}
clean:
  rules:
    distance_is_flyable: {{check: distance BETWEEN 50 AND 6000, action: quarantine}}
    flight_is_real: {{check: carrier != 'TRIAL', action: drop}}
    seats_are_enough: {{check: booked <= seats, action: warn}}
  dedupe:
    keys: [flight]
    latest_by: [updated]
  period:
    column: period
    expression: date_format(departs, 'yyyy-MM')
features:
  keys: [flight]
  label: {{name: late, expression: delay > 15}}
  # By key: a split by time would be another one at every size, and with it the spec.
  splits:
    train: flight % 10 < 8
    validation: flight % 10 = 8
    test: flight % 10 = 9
  leakage: [delay, updated]
  derive:
    hour: hour(departs)
    load: booked / seats
  numeric:
    distance: {{scale: standard}}
    fare: {{scale: standard}}
    seats: {{scale: standard}}
    load: {{scale: standard}}
    temperature: {{scale: standard, indicator: true}}
    wind: {{scale: standard}}
  categorical:
    carrier: {{minimum_count: 1}}
    origin: {{minimum_count: 1}}
    dest: {{minimum_count: 1}}
  cyclic:
    hour: {{period: 24}}
train:
  model: {{family: mlp, hidden: [64], embedding_dimension: 8}}
  epochs: 1
  rows_per_batch: 1024
"""


@dataclass(frozen=True)
class Expected:
    """Rows by where they must end."""

    clean: int
    quarantined: int
    dropped: int

    @classmethod
    def of(cls, rows: int) -> Expected:
        """What is to become of so many rows, whole blocks."""
        every = (UNREADABLE_EVERY, ABSENT_EVERY, IMPOSSIBLE_EVERY)
        again = BLOCK_ROWS // 2 // AGAIN_EVERY
        blocks = rows // BLOCK_ROWS
        quarantined = blocks * (sum(BLOCK_ROWS // each for each in every) + again)
        dropped = blocks * (BLOCK_ROWS // TRIAL_EVERY)
        return cls(rows - quarantined - dropped, quarantined, dropped)


def described(lake: Path) -> Pipeline:
    """The pipeline, its description written beside its lake."""
    path = lake.parent / f"{lake.name}.yaml"
    path.write_text(PIPELINE)
    return load_pipeline(path, [f"lake={lake}"])


def write_raw(spark: SparkSession, lake: Path, rows: int) -> int:
    """Writes raw rows into a lake, a file for each 250,000 of them; their bytes.

    Args:
        spark: Makes them.
        lake: Whose `raw` folder they go to.
        rows: How many: whole blocks.
    """
    folder = lake / "raw"
    number = F.col("id")
    place = number % BLOCK_ROWS
    is_again = (place >= BLOCK_ROWS // 2) & (place % AGAIN_EVERY == 99)
    # Half a block earlier: often in another file.
    flight = F.when(is_again, number - BLOCK_ROWS // 2).otherwise(number)
    month = F.add_months(F.lit(FIRST_MONTH).cast("date"), (flight / PERIOD_ROWS).cast("int"))
    departs = F.timestamp_seconds(
        F.unix_timestamp(month.cast("timestamp")) + flight % PERIOD_ROWS * SECONDS_PER_ROW
    )
    frame = spark.range(0, rows, 1, -(-rows // FILE_ROWS)).select(
        F.when(_at(place, ABSENT_EVERY, 2), None).otherwise(flight).alias("flight"),
        departs.alias("departs"),
        (
            departs
            + F.when(is_again, F.expr("INTERVAL 1 HOUR")).otherwise(F.expr("INTERVAL 0 HOUR"))
        ).alias("updated"),
        *(column.alias(name) for name, column in _values(place).items()),
    )
    frame.write.parquet(str(folder))
    return sum(path.stat().st_size for path in folder.glob("*.parquet"))


def _values(place: Column) -> dict[str, Column]:
    """What a block's places hold, in no way of the row's number."""

    def chance(draw: int) -> Column:
        """Evenly from 0 to 1."""
        return F.pmod(F.xxhash64(place, F.lit(SEED + draw)), F.lit(1_000_003)) / 1_000_003

    def whole(column: Column) -> Column:
        return F.floor(column).cast("int")

    def named(letter: str, count: int, draw: int) -> Column:
        """One of so many, the first ones more often."""
        code = whole(chance(draw) * chance(draw + 1) * count)
        return F.concat(F.lit(letter), code.cast("string"))

    wind = chance(1) * 20
    temperature = chance(2) * 40 - 10
    fare = F.round(40 + chance(3) * 400, 2).cast("string")
    delay = F.round(wind * 2 + chance(4) * 60 - 40 - temperature / 2, 1)
    return {
        "carrier": F.when(_at(place, TRIAL_EVERY, 4), "TRIAL").otherwise(named("C", 20, 5)),
        "origin": named("A", 120, 7),
        "dest": named("A", 120, 9),
        "distance": F.when(_at(place, IMPOSSIBLE_EVERY, 3), -1.0).otherwise(
            F.round(80 + chance(11) * 3_000)
        ),
        "fare": F.when(_at(place, UNREADABLE_EVERY, 1), "on request").otherwise(fare),
        "seats": 50 + whole(chance(12) * 20) * 10,
        "booked": whole(chance(13) * 250),
        "temperature": F.when(chance(14) > 0.02, F.round(temperature, 1)),
        "wind": F.round(wind, 1),
        "delay": delay,
    }


def _at(place: Column, every: int, first: int) -> Column:
    return place % every == first
