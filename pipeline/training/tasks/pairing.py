"""Losses of pairs of predicted and observed, as columns of Spark, which tasks share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column

# float32 cannot tell numbers closer to 1, and a logarithm must not see 0.
CLOSEST = 1e-7


def squared_error() -> Column:
    """Of a predicted number."""
    from pyspark.sql import functions as F

    return F.pow(F.col("predicted") - F.col("observed"), F.lit(2.0))


def likelihood() -> Column:
    """The probability that was given to what came, where `predicted` is that of true."""
    from pyspark.sql import functions as F

    predicted, observed = F.col("predicted"), F.col("observed")
    return F.when(observed > 0.5, predicted).when(observed <= 0.5, 1 - predicted)


def log_loss(likelihood: Column) -> Column:
    """The negative logarithm of a likelihood; null for null."""
    from pyspark.sql import functions as F

    safe = F.least(F.greatest(likelihood, F.lit(CLOSEST)), F.lit(1 - CLOSEST))
    # Both functions skip nulls, and would make a likelihood of what is not known.
    return F.when(likelihood.isNotNull(), -F.log(safe))
