"""Metrics: predictions and truths in, numbers out; per resampled unit first, then combined."""
