"""Commands about what a curation decided: explanations, leaks, calibration, takedowns."""
