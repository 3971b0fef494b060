"""Connected components: named by the smallest member, a function of the graph alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.neighbors.join import connected_components

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


@given(EDGES)
def test_components_are_named_by_their_smallest_member(edges):
    assert connected_components(NODES, *columns(edges)).tolist() == spread(edges)


@given(EDGES, st.randoms(use_true_random=False))
def test_order_and_direction_of_the_edges_do_not_matter(edges, random):
    turned = [pair if random.random() < 0.5 else pair[::-1] for pair in edges]
    random.shuffle(turned)
    plain = connected_components(NODES, *columns(edges))
    assert np.array_equal(plain, connected_components(NODES, *columns(turned)))


@pytest.mark.parametrize("times", [1, 2, 256, 300])
def test_an_edge_that_is_reported_many_times_is_still_one(times):
    labels = connected_components(4, *columns([(1, 3)] * times))
    assert labels.tolist() == [0, 1, 2, 1]


def test_no_nodes_and_no_edges_are_fine():
    assert connected_components(0, *columns([])).tolist() == []
    assert connected_components(3, *columns([])).tolist() == [0, 1, 2]
