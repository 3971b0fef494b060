"""Several models in one table: intervals, paired differences, significance, seeds, curves."""
