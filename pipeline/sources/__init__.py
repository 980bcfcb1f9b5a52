"""Data sets that packages ship, laid out as raw files as a lake would receive them."""
