"""Forests that stand for all pairs; components cut at higher thresholds, or into stars."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.curation.policies import pairs as pairs_module
from dinoforge.curation.policies import splitting
from dinoforge.curation.policies.pairs import Pairs, gather
from dinoforge.curation.policies.splitting import (
    StrongestForest,
    split_by_threshold,
    split_into_stars,
)
from dinoforge.neighbors.components import connected_components

NODES = 16
# Few values, so that many pairs are as strong as others.
TRIPLES = st.lists(
    st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1), st.integers(80, 90)),
    max_size=50,
)


def pairs(triples):
    i, j, similarity = zip(*triples, strict=True) if triples else ((), (), ())
    return Pairs(np.array(i, np.int64), np.array(j, np.int64), np.array(similarity, np.float32))


def distinct(triples):
    """Each pair once, i < j, similarity 0.80 to 0.90."""
    return [(*ends, s / 100) for ends, s in {tuple(sorted(t[:2])): t[2] for t in triples}.items()]


def real_pairs(triples):
    return [(i, j, s) for i, j, s in distinct(triples) if i != j]


def forest_of(blocks, nodes=NODES):
    forest = StrongestForest(nodes)
    for block in blocks:
        forest.add(block)
    return forest.pairs()


def cut(triples, size):
    return [pairs(triples[k : k + size]) for k in range(0, len(triples), size)]


@given(TRIPLES, st.sampled_from([0.0, 0.8, 0.83, 0.86, 0.9]))
def test_a_forest_has_the_components_of_all_pairs_above_any_threshold(triples, threshold):
    every = pairs(real_pairs(triples))
    forest = forest_of([every])
    assert len(forest.i) < NODES
    strong, thin = every.above(threshold), forest.above(threshold)
    np.testing.assert_array_equal(
        connected_components(NODES, thin.i, thin.j), connected_components(NODES, strong.i, strong.j)
    )


@given(TRIPLES, st.integers(1, 7), st.randoms(use_true_random=False))
def test_a_forest_does_not_depend_on_order_and_blocks(triples, size, random):
    whole = real_pairs(triples)
    expected = forest_of([pairs(whole)])
    random.shuffle(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "_WAITING_PAIRS", 6)
        merged = forest_of(cut(whole, size))
    for column, other in zip(merged, expected, strict=True):
        np.testing.assert_array_equal(column, other)


def test_a_forest_is_the_one_of_kruskal():
    square = [(0, 1, 0.9), (1, 2, 0.8), (2, 3, 0.9), (0, 3, 0.85), (0, 2, 0.7)]
    forest = forest_of([pairs(square)], 4)
    assert list(zip(forest.i.tolist(), forest.j.tolist(), strict=True)) == [(0, 1), (2, 3), (0, 3)]


def test_a_component_that_is_too_large_is_cut_at_a_higher_threshold():
    chained = [(k, k + 1, 0.91 if k == 3 else 0.99) for k in range(7)]
    labels, num_split = split_by_threshold(8, pairs(chained), 0.9, 4)
    assert labels.tolist() == [0, 0, 0, 0, 4, 4, 4, 4]
    assert num_split == 1


def test_a_crowd_of_true_copies_is_not_torn_apart():
    crowd = [(a, b, 1.0) for a in range(6) for b in range(a + 1, 6)]
    labels, _ = split_by_threshold(6, forest_of([pairs(crowd)], 6), 0.9, 2)
    assert labels.tolist() == [0] * 6


def stars_by_hand(triples, rank, max_size):
    """Label every node by walking the definition one node at a time."""
    similarity = {frozenset(t[:2]): np.float32(t[2]) for t in triples}
    every = pairs(triples)
    labels = connected_components(NODES, every.i, every.j).tolist()
    result = list(labels)
    for label in set(labels):
        members = [node for node in range(NODES) if labels[node] == label]
        if not 0 < max_size < len(members):
            continue
        strengths = {
            a: [similarity[frozenset((a, b))] for b in members if frozenset((a, b)) in similarity]
            for a in members
        }
        order = sorted(
            members,
            key=lambda a: (
                -len(strengths[a]),
                -sum(round(float(s) * 2**30) for s in strengths[a]),
                rank[a],
            ),
        )
        centers = []
        for a in order:
            if not any(frozenset((a, c)) in similarity for c in centers):
                centers.append(a)
        stars = {c: [c] for c in centers}
        for a in set(members) - set(centers):
            near = [c for c in centers if frozenset((a, c)) in similarity]
            best = min(near, key=lambda c: (-similarity[frozenset((a, c))], order.index(c)))
            stars[best].append(a)
        for star in stars.values():
            for a in star:
                result[a] = min(star)
    return result


@given(
    TRIPLES, st.permutations(range(NODES)), st.sampled_from([0, 2, 5]), st.sampled_from([1, 1000])
)
def test_stars_are_those_of_the_definition_however_pairs_are_read(triples, rank, max_size, batch):
    whole = real_pairs(triples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs_module, "_BATCH_PAIRS", batch)
        labels, joined, num_split = split_into_stars(
            forest_of([pairs(whole)]), lambda: cut(whole[::-1], 3), np.array(rank), max_size
        )
    assert labels.tolist() == stars_by_hand(whole, rank, max_size)
    np.testing.assert_array_equal(connected_components(NODES, joined.i, joined.j), labels)
    every = pairs(whole)
    sizes = np.unique(connected_components(NODES, every.i, every.j), return_counts=True)[1]
    assert num_split == (np.count_nonzero(sizes > max_size) if max_size else 0)


@given(TRIPLES, st.permutations(range(NODES)))
def test_every_image_of_a_star_has_a_pair_to_its_center(triples, rank):
    whole = real_pairs(triples)
    labels, joined, _ = split_into_stars(
        forest_of([pairs(whole)]), lambda: [pairs(whole)], np.array(rank), 2
    )
    known = {(i, j) for i, j, _ in whole}
    for label in np.unique(labels):
        members = set(np.flatnonzero(labels == label).tolist())
        if len(members) > 2:
            edges = known & {(i, j) for i in members for j in members}
            assert any(all((min(c, m), max(c, m)) in edges for m in members - {c}) for c in members)
    assert {(i, j) for i, j in zip(joined.i.tolist(), joined.j.tolist(), strict=True)} <= known


def test_a_chain_breaks_where_nothing_holds_it():
    chain = [(k, k + 1, 0.99) for k in range(5)]
    labels, _, num_split = split_into_stars(
        forest_of([pairs(chain)], 6), lambda: [pairs(chain)], np.arange(6), 3
    )
    # 1 to 4 have two pairs each: 1 is the first center, 3 the next without a pair to it, then 5.
    assert labels.tolist() == [0, 0, 0, 3, 3, 5]
    assert num_split == 1


def test_gathering_nothing_gives_empty_columns():
    assert [column.dtype for column in gather([])] == [np.int64, np.int64, np.float32]
