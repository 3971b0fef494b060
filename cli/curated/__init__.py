"""Commands about what a curation found: leaks, calibration, takedowns."""
