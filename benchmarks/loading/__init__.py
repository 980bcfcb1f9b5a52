"""What the benchmarks of the stream share; nothing here is a script.

data.py      the rows, and the layouts in which they are written
raw.py       decoding alone: pyarrow, jollyjack
loaders.py   every loader that is compared: files to batches of torch tensors
measure.py   one reading in a process of its own: rows, seconds, CPU seconds, peak memory
shuffle.py   how good a shuffle is
"""
