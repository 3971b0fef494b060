"""Calibration: a person marks pairs of a finished curation, which gives its threshold."""
