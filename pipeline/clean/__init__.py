"""Stage 1: raw files to `clean`, `quarantine` and `quality`, row for row."""
