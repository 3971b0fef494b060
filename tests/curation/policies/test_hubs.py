"""Hubs are linked by others and link nothing."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.curation.policies.hubs import keep_hubs_from_linking
from dinoforge.curation.policies.pairs import Pairs, concat_pairs
from dinoforge.neighbors.components import connected_components

NUM = 12
EDGES = st.dictionaries(
    st.tuples(st.integers(0, NUM - 1), st.integers(0, NUM - 1)).filter(lambda e: e[0] < e[1]),
    st.sampled_from([0.625, 0.75, 0.875]),
)


def as_pairs(edges):
    i, j = (np.array([edge[end] for edge in edges], np.int64) for end in (0, 1))
    return Pairs(i, j, np.array(list(edges.values()), np.float32))


def linking(edges, limit, size=3):
    """Apply the rule above 0.5 to blocks of ``size`` pairs; the pairs left and the hubs."""
    pairs = as_pairs(edges)
    blocks = [
        Pairs(*(column[start : start + size] for column in pairs))
        for start in range(0, len(pairs.i), size)
    ]
    left, hubs = keep_hubs_from_linking(
        lambda: blocks, np.arange(NUM), threshold=0.5, max_degree=limit
    )
    return concat_pairs(list(left())).above(0.5), hubs.content


def as_dict(pairs):
    return {(i, j): s for i, j, s in zip(*(column.tolist() for column in pairs), strict=True)}


def partition(pairs, nodes):
    """Group nodes by the component that they are in."""
    labels = connected_components(NUM, pairs.i, pairs.j)
    return {frozenset(n for n in nodes if labels[n] == label) for label in labels} - {frozenset()}


def test_a_text_card_does_not_join_what_resembles_it():
    # 0 is the card; 1 and 2 are copies of each other, 3 and 4 resemble only the card.
    pairs = {(0, 1): 0.6, (0, 2): 0.7, (0, 3): 0.8, (0, 4): 0.65, (1, 2): 0.9}
    left, hubs = linking(pairs, 3)
    assert hubs.tolist() == [0]
    assert set(as_dict(left)) == {(0, 3), (1, 2)}
    assert linking(pairs, 4)[1].tolist() == []


def test_two_hubs_are_not_linked():
    edges = {(0, 1): 0.99} | {(0, n): 0.7 for n in (2, 3)} | {(1, n): 0.7 for n in (4, 5)}
    left, hubs = linking(edges, 2)
    assert hubs.tolist() == [0, 1]
    assert set(as_dict(left)) == {(0, 2), (1, 4)}


@given(EDGES, st.integers(1, 6))
def test_other_images_are_grouped_as_if_there_were_no_hubs(edges, limit):
    left, hubs = linking(edges, limit)
    others = set(range(NUM)) - set(hubs.tolist())
    without = as_pairs({e: s for e, s in edges.items() if set(e) <= others})
    assert partition(left, others) == partition(without, others)


@given(EDGES, st.integers(1, 6))
def test_a_hub_keeps_its_most_similar_pair_with_an_image_that_is_none(edges, limit):
    left, hubs = linking(edges, limit)
    degree = Counter(n for edge in edges for n in edge)
    assert hubs.tolist() == sorted(n for n, count in degree.items() if count > limit)
    kept = as_dict(left)
    for hub in hubs.tolist():
        candidates = {e: s for e, s in edges.items() if hub in e and not set(e) - {hub} & set(hubs)}
        best = min(candidates, key=lambda e: (-candidates[e], sum(e) - hub), default=None)
        assert [e for e in kept if hub in e] == [best] * (best is not None)
    assert kept.items() <= as_dict(as_pairs(edges)).items()


@given(EDGES, st.integers(0, 6), st.randoms())
def test_the_order_of_pairs_changes_nothing_and_zero_is_no_limit(edges, limit, random):
    shuffled = list(edges.items())
    random.shuffle(shuffled)
    results = [linking(e, limit) for e in (edges, dict(shuffled))]
    assert as_dict(results[0][0]) == as_dict(results[1][0])
    if limit == 0:
        assert as_dict(results[0][0]) == as_dict(as_pairs(edges))
