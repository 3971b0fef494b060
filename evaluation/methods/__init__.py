"""Methods: from features to predictions or trained heads; seeded by keys, without data sets."""
