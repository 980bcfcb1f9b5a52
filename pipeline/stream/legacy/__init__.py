"""The names Petastorm 0.13.1 was written against, on today's pyarrow, NumPy and fsspec.

Only Petastorm's own modules see these: `pipeline.stream.bridge` hands them out in place of the
packages they stand for. They import no torch, because Spark's executors and Petastorm's worker
processes load them too.
"""
