"""Hierarchical k-means and even sampling over its clusters (Vo et al. 2024, arXiv 2405.15613).

Centroids and choices are functions of the rows, the settings and the seed alone: sums are float64
over fixed blocks in a fixed order, ties go to the lowest position, and every draw has a key.
"""
