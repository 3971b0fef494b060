"""Encoders: a vector per image, from pixels, a packaged network, a checkpoint or your function."""
