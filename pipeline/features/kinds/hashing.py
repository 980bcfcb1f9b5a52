"""Ids by a hash: nothing to fit, no word is unknown, and several words may share an id.

The hash is CRC-32, which Spark, Python and most databases compute alike.

Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning (2009),
https://arxiv.org/abs/0902.2206.
"""

from __future__ import annotations

import zlib
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from pyspark.sql import Column
from pyspark.sql import functions as F

from pipeline.features.kinds.columns import MISSING_ID

Buckets = Annotated[int, Field(ge=2, lt=2**31)]
"""Number of ids, the reserved 0 included."""


def hashed(text: Column, buckets: int) -> Column:
    """1 + CRC-32 % (buckets - 1) of a text, `int` from 1 on; null for null."""
    return (F.crc32(text) % (buckets - 1) + 1).cast("int")


def hashed_word(word: str, buckets: int) -> int:
    """The same for one word."""
    return zlib.crc32(word.encode()) % (buckets - 1) + 1


def hashed_texts(texts: pa.Array, buckets: int) -> pa.Array:
    """The same for strings [rows], int32; 0 for null."""
    encoded = pc.dictionary_encode(texts)
    ids = [hashed_word(word, buckets) for word in encoded.dictionary.to_pylist()]
    return pc.take(pa.array(ids, pa.int32()), encoded.indices).fill_null(MISSING_ID)
