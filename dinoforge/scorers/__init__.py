"""Scores of images: one number per image and column, measured once, for policies to compare."""
