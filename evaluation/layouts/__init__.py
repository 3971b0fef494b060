"""Layouts: where data sets and our tars keep images and truths; nothing is decoded at listing."""
