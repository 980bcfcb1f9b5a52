"""Stage 2: `clean` to `features`, by a spec that is fitted once on the train split."""
