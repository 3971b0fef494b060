"""Dense prediction on patch features: linear heads, nearest labeled patches, baselines."""
