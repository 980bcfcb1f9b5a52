"""What `score.py` measures: a table to score, and the ways to score it."""
