"""Duplicates: equal pixels, candidate pairs, groups, and whether planted copies were found."""
