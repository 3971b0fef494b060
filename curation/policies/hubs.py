"""Hubs: pictures that resemble very many others, such as text cards, logos and plots.

One of them would link all that resembles it to one group, though these pictures have nothing in
common. It is linked itself, to the picture that it resembles most, and links nothing else.
"""

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.policies.pairs import Pairs

__all__ = ["keep_hubs_from_linking"]


def keep_hubs_from_linking(pairs: Pairs, max_degree: int) -> tuple[Pairs, NDArray[np.int64]]:
    """Drop the pairs by which hubs link others; return those left and the hubs, ascending.

    A hub is an end of more than ``max_degree`` of the ``pairs``, which are above the threshold and
    distinct; 0: nothing is one. Of its pairs with nodes that are no hubs only the most similar is
    left (at a tie, that with the smaller node), so it is a leaf: the nodes that are no hubs are
    connected as if there were no hubs. Pairs of two hubs are dropped.
    """
    nodes, degree = np.unique(np.concatenate(pairs[:2]), return_counts=True)
    hubs = nodes[degree > max_degree] if max_degree else nodes[:0]
    is_hub_i, is_hub_j = (np.isin(end, hubs) for end in pairs[:2])
    leaf = np.flatnonzero(is_hub_i != is_hub_j)
    hub = np.where(is_hub_i, pairs.i, pairs.j)[leaf]
    other = np.where(is_hub_i, pairs.j, pairs.i)[leaf]
    order = np.lexsort((other, -pairs.similarity[leaf], hub))
    _, first = np.unique(hub[order], return_index=True)
    is_left = ~(is_hub_i | is_hub_j)
    is_left[leaf[order[first]]] = True
    return pairs.where(is_left), hubs
