"""New images on top of what a base decided: the same are kept as if all came at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.curation.policies.duplicates import Candidates, group_duplicates
from dinoforge.curation.policies.increments import Decided, add_base, take_new
from dinoforge.curation.policies.pairs import Pairs

NUM = 14
PAIR = st.tuples(
    st.integers(0, NUM - 1), st.integers(0, NUM - 1), st.sampled_from([0.5, 0.85, 0.92, 0.97])
)
EDGES = st.lists(PAIR, max_size=20, unique_by=lambda p: frozenset(p[:2])).map(
    lambda pairs: sorted((min(a, b), max(a, b), s) for a, b, s in pairs if a != b)
)
CONTENTS = st.lists(st.integers(0, NUM - 1), min_size=NUM, max_size=NUM)


def images(ids, content, rank, protected):
    mask = np.zeros(len(ids), bool)
    mask[protected] = True
    return Candidates(np.array(ids), content[ids], np.argsort(np.argsort(rank[ids])), mask)


def curate(candidates, edges, base=None, rule="component"):
    """Group candidates, on top of what the base decided if it is given."""
    i, j, similarity = zip(*edges, strict=True) if edges else ((), (), ())
    pairs = Pairs(np.array(i, np.int64), np.array(j, np.int64), np.array(similarity, np.float32))
    if base is None:
        return group_duplicates(candidates, lambda: [pairs], threshold=0.8, rule=rule)
    decided, every = add_base(base, candidates, rule)
    groups = group_duplicates(every, lambda: [pairs], threshold=0.8, rule=rule)
    return take_new(decided, every, groups)


def decide(cuts, content, edges, rank, rule):
    """Curate generation after generation; returns ids, kept, keeper, component of all images."""
    decided = None
    for first, stop in zip([0, *cuts], [*cuts, NUM], strict=True):
        if first == stop:
            continue
        ids = np.arange(first, stop)
        groups = curate(images(ids, content, rank, []), edges, decided, rule)
        keeper = np.where(groups.kept, ids, groups.duplicate_of)
        new = Decided(ids, content[ids], keeper)
        earlier = [] if decided is None else [decided]
        names = ("image_id", "content", "keeper")
        parts = ([getattr(one, name) for one in (*earlier, new)] for name in names)
        decided = Decided(*map(np.concatenate, parts))
    return decided


@pytest.mark.parametrize("rule", ["component", "direct"])
@given(
    cuts=st.lists(st.integers(1, NUM - 1), min_size=1, max_size=2, unique=True).map(sorted),
    contents=CONTENTS,
    edges=EDGES,
    rank=st.permutations(range(NUM)),
)
def test_generations_keep_what_one_run_keeps_if_earlier_images_are_preferred(
    rule, cuts, contents, edges, rank
):
    # A content is the first image that has it; pairs are between contents.
    content = np.array([contents.index(c) for c in contents])
    edges = [(content[a], content[b], s) for a, b, s in edges]
    edges = sorted({(min(a, b), max(a, b)): s for a, b, s in edges if a != b}.items())
    edges = [(a, b, s) for (a, b), s in edges]
    rank = np.array(rank)
    generation = np.searchsorted(cuts, np.arange(NUM), side="right")
    once = curate(images(np.arange(NUM), content, rank + NUM * generation, []), edges, None, rule)
    decided = decide(cuts, content, edges, rank, rule)
    kept = decided.keeper == decided.image_id
    # Every image is represented by a kept one of its component.
    assert kept[decided.keeper].all()
    assert (once.component[decided.keeper] == once.component).all()
    if rule == "direct":
        assert kept.tolist() == once.kept.tolist()
        return
    # The same components are represented; more than once only by images of earlier generations
    # that newer ones have connected.
    assert set(once.component[kept]) == set(once.component)
    newest = generation == len(cuts)
    assert kept[newest].tolist() == once.kept[newest].tolist()
    assert kept[once.kept].all()
    for image in np.flatnonzero(kept & ~once.kept):
        before = generation <= generation[image]
        joined = curate(images(np.flatnonzero(before), content, rank, []), edges)
        assert joined.component[image] != joined.component[once.duplicate_of[image]]


def test_an_image_near_one_that_the_base_dropped_is_represented_by_what_the_base_keeps():
    base = Decided(np.arange(3), np.arange(3), np.array([0, 0, 2]))
    new = images(np.array([3, 4]), np.arange(5), np.arange(5), [])
    groups = curate(new, [(0, 1, 0.9), (1, 3, 0.9), (3, 4, 0.9), (2, 4, 0.81)], base)
    assert groups.kept.tolist() == [False, False]
    assert groups.duplicate_of.tolist() == [0, 0]
    assert groups.link.tolist() == [1, 3]


def test_protected_new_images_are_kept_beside_those_of_the_base():
    base = Decided(np.arange(1), np.arange(1), np.arange(1))
    groups = curate(images(np.array([1, 2]), np.zeros(3, int), np.arange(3), [0]), [], base)
    assert groups.kept.tolist() == [True, False]
    assert groups.duplicate_of.tolist() == [-1, 0]
