"""What `broken_inputs.py` breaks: a good set of raw files, ways to spoil one, what may come of it."""
