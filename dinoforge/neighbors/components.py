"""Connected components of an edge list, named by their smallest member."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["connected_components"]


def connected_components(n: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int64]:
    """Label nodes ``0 .. n - 1`` by the smallest node that they are connected with.

    Parameters
    ----------
    n : int
        Nodes.
    i, j : ndarray of int64
        Edges, in any order and direction, repeated or not.

    Returns
    -------
    ndarray of int64
        ``[n]``; a function of the graph alone, not of the order of its edges.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components as label

    if not n:
        return np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(i), np.int8), (i, j)), shape=(n, n))
    _, labels = label(graph, directed=False)
    # The first node with a label is the smallest one of its component.
    _, first = np.unique(labels, return_index=True)
    named: NDArray[np.int64] = first[labels].astype(np.int64)
    return named
