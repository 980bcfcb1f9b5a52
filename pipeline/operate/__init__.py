"""Runs the stages: one by one, or the whole way."""
