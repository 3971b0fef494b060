"""Is one picture an edited copy of another? Local features, one transform, the finest details."""
