"""The fit of a stratified split: thresholds for each stratum, so that its shares are exact.

A hash below a threshold is of the split test, and the number of such hashes is binomial: of a class
of 40 rows a share of 0.1 is 4 give or take 2. Here the threshold of each stratum moves, as little
as possible, until exactly the rounded share of its rows is below. The thresholds are part of the
fitted spec: rows that come later are compared with the same ones, and no row moves.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as F

from pipeline.config import Features, FittedStrata, StratifiedSplits
from pipeline.config.splits import DIGITS
from pipeline.errors import SpecError
from pipeline.features.prepared import ABSENT, SPLIT, prepared
from pipeline.features.splits import digest, stratum_of

MOST_STRATA = 1_000
"""The spec holds them all, and every row is compared with its own."""


def with_fitted_strata(clean: DataFrame, features: Features) -> Features:
    """The description with thresholds in place of shares, where its splits are stratified.

    Reads the columns that decide, twice; the second time, hashes are sorted within each stratum.

    Args:
        clean: All rows of `clean`.
        features: The description.

    Raises:
        SpecError: The expression is wrong, or there are too many strata.
    """
    splits = features.splits
    if not isinstance(splits, StratifiedSplits):
        return features
    rows = _stratum_and_digest(clean, features, splits)
    sizes = _sizes(rows)
    wanted = {name: _cuts(size, splits) for name, size in sizes.items()}
    found = _digests_at(rows, wanted) if wanted else {}
    borders = {
        name: tuple(
            _border(nominal, found.get((name, cut)), found.get((name, cut + 1)))
            for nominal, cut in zip(splits.thresholds, wanted[name], strict=True)
        )
        for name in sorted(wanted)
    }
    fitted = FittedStrata.model_validate({**splits.model_dump(exclude={"by"}), "borders": borders})
    return features.model_copy(update={"splits": fitted})


def _stratum_and_digest(
    clean: DataFrame, features: Features, splits: StratifiedSplits
) -> DataFrame:
    """Of each labelled row, its stratum and the hash of its keys."""
    rows = prepared(clean, features).where(F.col(ABSENT).isNull())
    labels = [F.col(name) for name in features.label.columns]
    known = rows.drop(*features.label.columns, ABSENT, SPLIT)
    return rows.select(
        stratum_of(known, splits.expression, labels).alias("stratum"),
        digest(known, features.keys, splits.seed).substr(1, DIGITS).alias("digest"),
    )


def _sizes(rows: DataFrame) -> dict[str, int]:
    # Not the data is collected but the strata, which are part of the model.
    counted = rows.groupBy("stratum").count().limit(MOST_STRATA + 1).collect()
    if len(counted) > MOST_STRATA:
        raise SpecError(
            "features.splits",
            f"there are more than {MOST_STRATA:,} strata",
            "Write an expression of fewer values under features.splits.expression.",
        )
    return {row["stratum"]: row["count"] for row in counted}


def _cuts(rows: int, splits: StratifiedSplits) -> tuple[int, int]:
    """How many rows of a stratum are of test, and of test or validation; one stays for train."""
    shares = (splits.test, splits.test + splits.validation)
    test, both = (min(int(rows * share + 0.5), rows - 1) for share in shares)
    return test, both


def _digests_at(rows: DataFrame, cuts: dict[str, tuple[int, int]]) -> dict[tuple[str, int], str]:
    """The hashes on both sides of each cut, by stratum and rank."""
    ranks = {(name, cut + side) for name, pair in cuts.items() for cut in pair for side in (0, 1)}
    wanted = rows.sparkSession.createDataFrame(sorted(ranks), "stratum string, rank int")
    within = Window.partitionBy("stratum").orderBy("digest")
    ranked = rows.withColumn("rank", F.row_number().over(within))
    found: list[Row] = ranked.join(F.broadcast(wanted), ["stratum", "rank"]).collect()
    return {(row["stratum"], row["rank"]): row["digest"] for row in found}


def _border(nominal: str, inside: str | None, outside: str | None) -> str:
    """The threshold next to the nominal one that has `inside` below it, and `outside` not."""
    lowest = 0 if inside is None else int(inside, 16) + 1
    highest = 16**DIGITS - 1 if outside is None else int(outside, 16)
    return f"{min(max(int(nominal, 16), lowest), highest):0{DIGITS}x}"
