"""Exact neighbors: all pairs above a threshold, the k nearest, connected components.

Exact comes first: on one machine a tiled product is faster than an index, and exact. Results
depend on the rows alone: whatever the tiles, threads and back end, candidates are scored again by
one formula (`exact_scores`), so a pair at the threshold is always in or always out.
"""

from dinoforge.neighbors.faiss_backend import refuse_two_faiss, require_faiss
from dinoforge.neighbors.join import Edges, connected_components, join_above
from dinoforge.neighbors.products import backend_for, exact_scores
from dinoforge.neighbors.search import Neighbors, merge_top_k, top_k

__all__ = [
    "Edges",
    "Neighbors",
    "backend_for",
    "connected_components",
    "exact_scores",
    "join_above",
    "merge_top_k",
    "refuse_two_faiss",
    "require_faiss",
    "top_k",
]
