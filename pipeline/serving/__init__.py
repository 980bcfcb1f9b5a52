"""One row or many through a registered model, in this process and without Spark.

scorer.py   rows of `clean` in, what `predictions` holds out
rows.py     dicts, pandas, Polars and Arrow to Arrow and back
pyfunc.py   the same for MLflow's own tools
service.py  the same over HTTP; batcher.py batches, wire.py JSON, command.py its start
log.py      what a service made, in files; skew.py compares it with the lake
"""
