"""Stage 4: `features` to `predictions`; tasks get paths of row groups, never rows."""
