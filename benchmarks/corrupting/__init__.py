"""What `broken_inputs.py` breaks: a good set, ways to spoil it, and what may come of it."""
