"""Connected components: named by the smallest member, a function of the graph alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.neighbors import components as module
from dinoforge.neighbors.components import Components, connected_components

NODES = 25
EDGES = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=40)


def columns(edges):
    return np.array(edges, np.int64).reshape(-1, 2).T


def spread(edges, nodes=NODES):
    """Let every node take the smallest name of its neighbors until nothing changes."""
    names = list(range(nodes))
    for _ in range(nodes):
        for i, j in edges:
            names[i] = names[j] = min(names[i], names[j])
    return names


def by_scipy(n, i, j):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components as label

    _, labels = label(coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n)), directed=False)
    _, first = np.unique(labels, return_index=True)
    return first[labels]


@given(EDGES)
def test_components_are_named_by_their_smallest_member(edges):
    assert connected_components(NODES, *columns(edges)).tolist() == spread(edges)


@given(EDGES, st.integers(1, 9), st.randoms(use_true_random=False))
def test_order_direction_and_blocks_of_the_edges_do_not_matter(edges, size, random):
    turned = [pair if random.random() < 0.5 else pair[::-1] for pair in edges]
    random.shuffle(turned)
    components = Components(NODES)
    for start in range(0, len(turned), size):
        components.add(*columns(turned[start : start + size]))
        components.labels()  # a look in between changes nothing
    assert np.array_equal(connected_components(NODES, *columns(edges)), components.labels())


@given(EDGES, st.integers(1, 9))
def test_arrays_are_linked_in_blocks(edges, size):
    whole = connected_components(NODES, *columns(edges))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_EDGES", size)
        patch.setattr(module, "_CHUNK_NODES", 4)
        assert np.array_equal(whole, connected_components(NODES, *columns(edges)))


N = 50_000
PERMUTATION = np.random.default_rng(0).permutation(N)
GRAPHS = {
    "path, ascending": (np.arange(N - 1), np.arange(1, N)),
    "path, descending": (np.arange(N - 1)[::-1], np.arange(1, N)[::-1]),
    "path, shuffled": (PERMUTATION[:-1], PERMUTATION[1:]),
    "star, first": (np.zeros(N, np.int64), np.arange(N)),
    "star, last": (np.full(N, N - 1), np.arange(N)[::-1]),
    "random, sparse": tuple(np.random.default_rng(1).integers(0, N, (2, N // 2))),
    "random, many blocks": tuple(np.random.default_rng(2).integers(0, N, (2, 300_000))),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_large_graphs_are_labeled_as_scipy_does(graph):
    i, j = GRAPHS[graph]
    assert np.array_equal(connected_components(N, i, j), by_scipy(N, i, j))


@pytest.mark.parametrize("times", [1, 2, 256, 300])
def test_an_edge_that_is_reported_many_times_is_still_one(times):
    labels = connected_components(4, *columns([(1, 3)] * times))
    assert labels.tolist() == [0, 1, 2, 1]


def test_no_nodes_and_no_edges_are_fine():
    assert connected_components(0, *columns([])).tolist() == []
    assert connected_components(3, *columns([])).tolist() == [0, 1, 2]


def test_labels_take_four_bytes_per_node_and_cannot_be_written():
    labels = connected_components(3, *columns([(0, 1)]))
    assert labels.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        labels[0] = 1


@pytest.mark.parametrize("edge", [(-1, 0), (0, 4)])
def test_a_node_that_does_not_exist_is_an_error(edge):
    with pytest.raises(IndexError):
        connected_components(4, *columns([edge]))
