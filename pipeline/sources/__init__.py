"""Raw data: from a section of the YAML to rows that know where they came from.

places.py      folders, files, globs and object stores to the files of a source
format.py      what a format is; pipeline/config/formats.py is the table of them
formats.py     a section to its `Rows`, by that table
matching.py    the contract against each file's columns: aliases, patterns, policies
stored.py      stored types: how Spark reads each, and what they may be cast to
parquet.py, delimited.py, json_lines.py, delta.py, catalogue.py    one format each
text.py        what CSV and JSON share; wholeness.py, quoting.py, objects.py look at a file whole
assembly.py    the columns that every format gives to `clean`
idx.py, nycflights13.py    data sets laid out as raw files first
"""
