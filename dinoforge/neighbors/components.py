"""Connected components of a graph whose edges come in blocks, in any order.

A union-find in arrays: the larger root is hooked to the smaller one, so every root is the smallest
node of its tree and a parent is never larger than its child. Blocks of edges are linked at once
(hooking and pointer doubling after Shiloach and Vishkin 1982). An edge inside a tree, as most of a
graph of near-duplicates are after the first few per node, costs two gathers and a comparison.
Shapes: n nodes, m edges.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Components", "Labels", "connected_components", "spanning_forest"]

Ids = NDArray[np.int64]
Labels = NDArray[np.int32] | NDArray[np.int64]

# Edges that are linked at once. Their temporary arrays fit a cache: with 2^21 a graph of 1 M nodes
# and 5 M edges took 1.7 times as long.
_BLOCK_EDGES = 1 << 18
_CHUNK_NODES = 1 << 14  # nodes that are pointed to their roots at once


class Components:
    """Connected components of the nodes ``0 .. n - 1``, edges added block by block.

    Memory: 4 bytes per node (8 from 2^31 nodes on), and about 20 MB for the edges that are
    being linked.
    """

    def __init__(self, n: int) -> None:
        small = n < 2**31
        self._parent: Labels = np.arange(n, dtype=np.int32) if small else np.arange(n)
        self._num_loose = 0  # edges added since all nodes pointed to their roots

    def add(self, i: Ids, j: Ids) -> None:
        """Add edges between the nodes ``i`` and ``j``, int64 ``[m]`` each.

        Any order and direction; repeats and loops change nothing.

        Raises
        ------
        IndexError
            If a node is not in ``0 .. n - 1``.
        """
        for start in range(0, len(i), _BLOCK_EDGES):
            block = slice(start, start + _BLOCK_EDGES)
            self._link(i[block], j[block])

    def labels(self) -> Labels:
        """Return the smallest node of each node's component, ``[n]``.

        The dtype is int32 below 2^31 nodes, else int64. This is a view of the parents: read only,
        and changed by the next `add`.
        """
        self._compress()
        view = self._parent.view()
        view.flags.writeable = False
        return view

    def _link(self, i: Ids, j: Ids) -> None:
        if min(i.min(), j.min()) < 0:
            raise IndexError("a node of an edge is negative")
        # Every n edges, so that it costs O(1) per edge however small the blocks are.
        if self._num_loose >= len(self._parent):
            self._compress()
        parent = self._parent
        a, b = parent.take(i), parent.take(j)
        if self._num_loose:
            a, b = self._roots(a), self._roots(b)
        self._num_loose += len(i)
        while True:
            live = np.flatnonzero(a != b)
            if not len(live):
                return
            a, b = a.take(live), b.take(live)
            larger, smaller = np.maximum(a, b), np.minimum(a, b)
            # The smallest root wins: with any other winner, a star whose center has the largest
            # id would take one round per leaf.
            np.minimum.at(parent, larger, smaller)
            self._point_to_roots(np.sort(larger))
            a, b = parent.take(larger), parent.take(smaller)

    def _point_to_roots(self, nodes: Labels) -> None:
        """Point nodes, ascending, to their roots; their parents are roots or among them.

        Parents are smaller than their children: when a chunk is reached, those before it are done,
        and inside it the length of a chain halves in each round.
        """
        for start in range(0, len(nodes), _CHUNK_NODES):
            chunk = nodes[start : start + _CHUNK_NODES].astype(np.int64)
            up = self._parent.take(chunk)
            while True:
                higher = self._parent.take(up)
                if np.array_equal(higher, up):
                    break
                self._parent[chunk] = up = higher

    def _roots(self, nodes: Labels) -> Labels:
        """Follow the parents of ``nodes``, changed in place; few have more than one."""
        up = self._parent.take(nodes)
        moving = np.flatnonzero(up != nodes)
        up = up.take(moving)
        while len(moving):
            nodes[moving] = up
            higher = self._parent.take(up)
            still = np.flatnonzero(higher != up)
            moving, up = moving.take(still), higher.take(still)
        return nodes

    def _compress(self) -> None:
        """Point every node to its root: as `_point_to_roots`, without numbers of nodes."""
        if not self._num_loose:
            return
        for start in range(0, len(self._parent), _CHUNK_NODES):
            chunk = self._parent[start : start + _CHUNK_NODES]
            while True:
                up = self._parent.take(chunk)
                if np.array_equal(up, chunk):
                    break
                chunk[:] = up
        self._num_loose = 0


def connected_components(n: int, i: Ids, j: Ids) -> Labels:
    """Label nodes ``0 .. n - 1`` by the smallest node of their connected component.

    For edges that are all in memory; see `Components` for the arguments and the result.
    """
    components = Components(n)
    components.add(i, j)
    return components.labels()


def spanning_forest(n: int, i: Ids, j: Ids) -> NDArray[np.bool_]:
    """Return which edges join two components of the edges before them (Kruskal's algorithm).

    With edges sorted from strong to weak, this is the maximum spanning forest: at most n - 1 edges
    whose components above *any* strength are those of all edges. Forests of parts can be merged:
    the forest of their union is that of all edges. Computed in rounds, in each of which every
    component takes its first edge to another one (Boruvka 1926).

    Parameters
    ----------
    n : int
        Number of nodes.
    i, j : ndarray
        Ends of the edges, int64 ``[m]``; repeats and loops are never taken twice.

    Returns
    -------
    ndarray
        bool ``[m]``.
    """
    components, taken = Components(n), np.zeros(len(i), np.bool_)
    first = np.zeros(n, np.int64)
    live = np.arange(len(i))
    while True:
        labels = components.labels()
        ends = labels.take(np.stack([i.take(live), j.take(live)], axis=1))
        between = np.flatnonzero(ends[:, 0] != ends[:, 1])
        if not len(between):
            return taken
        live, ends = live.take(between), ends.take(between, axis=0)
        # Backwards, because the last value that is assigned stays.
        first[ends.ravel()[::-1]] = np.repeat(live, 2)[::-1]
        chosen = live[(first.take(ends) == live[:, None]).any(axis=1)]
        taken[chosen] = True
        components.add(i.take(chosen), j.take(chosen))
