"""Exact neighbors: all pairs above a threshold, the k nearest, connected components.

Exact comes first: on one machine a tiled product is faster than an index, and exact. Results
depend on the rows alone: whatever the tiles, threads and back end, candidates are scored again by
one formula (`exact_scores`), so a pair at the threshold is always in or always out. Only the join
by cells, for more rows than can all be compared, misses pairs, and measures how many.
"""
