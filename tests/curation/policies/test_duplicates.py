from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.curation.policies.duplicates import (
    EXACT,
    NEAR,
    NONE,
    Candidates,
    best_first,
    group_duplicates,
)
from dinoforge.curation.policies.pairs import Pairs


def pairs(*triples):
    i, j, similarity = zip(*triples, strict=True) if triples else ((), (), ())
    return Pairs(np.array(i, np.int64), np.array(j, np.int64), np.array(similarity, np.float32))


def in_blocks(*triples, size=5):
    """Return what reads the pairs in blocks of ``size``."""
    return lambda: (pairs(*triples[k : k + size]) for k in range(0, len(triples), size))


def images(num, *, content=None, rank=None, protected=()):
    mask = np.zeros(num, bool)
    mask[list(protected)] = True
    return Candidates(
        np.arange(num),
        np.arange(num) if content is None else np.array(content),
        np.arange(num) if rank is None else np.array(rank),
        mask,
    )


def test_the_best_image_has_the_first_role_then_more_pixels_then_more_bytes_then_a_smaller_id():
    role = np.array([2, 2, 2, 2, 0])
    pixels = np.array([10, 20, 20, 20, 1])
    size = np.array([9, 5, 7, 7, 1])
    assert best_first(role, pixels, size, np.arange(5)).tolist() == [4, 3, 1, 2, 0]


def test_criteria_come_after_the_role_in_their_order_and_nan_is_the_worst():
    role = np.array([2, 2, 2, 2, 0])
    same = np.ones(5, np.int64)
    first = np.array([np.nan, 1, np.inf, 1, np.nan])
    second = np.array([9.0, 1, 0, 2, 0])
    rank = best_first(role, same, same, np.arange(5), criteria=[first, second])
    assert rank.tolist() == [4, 3, 1, 2, 0]


def test_a_component_keeps_its_best_image_and_names_the_linking_pair_of_the_others():
    result = group_duplicates(
        images(4, rank=[1, 0, 2, 3]),
        in_blocks((0, 1, 0.97), (1, 2, 0.96), (2, 3, 0.5)),
        threshold=0.9,
    )
    assert result.kept.tolist() == [False, True, False, True]
    assert result.duplicate_of.tolist() == [1, -1, 1, -1]
    assert result.link.tolist() == [1, -1, 1, -1]
    assert result.reason.tolist() == [NEAR, NONE, NEAR, NONE]
    assert result.component.tolist() == [0, 0, 0, 3]
    assert result.similarity[[0, 2]].tolist() == pytest.approx([0.97, 0.96])


def test_a_chain_is_one_component_but_the_direct_rule_keeps_both_ends():
    chain = in_blocks((0, 1, 0.95), (1, 2, 0.95))
    single_link = group_duplicates(images(3), chain, threshold=0.9)
    direct = group_duplicates(images(3), chain, threshold=0.9, rule="direct")
    assert single_link.kept.tolist() == [True, False, False]
    assert single_link.link.tolist() == [-1, 0, 1]
    assert direct.kept.tolist() == [True, False, True]
    assert direct.component.tolist() == [0, 0, 0]


def test_images_with_one_content_are_exact_duplicates_of_its_best():
    result = group_duplicates(
        images(5, content=[0, 0, 2, 2, 0], rank=[2, 0, 1, 3, 4]),
        in_blocks((0, 2, 0.99)),
        threshold=0.9,
    )
    assert result.kept.tolist() == [False, True, False, False, False]
    assert result.reason.tolist() == [EXACT, NONE, NEAR, EXACT, EXACT]
    # 3 hangs on its twin 2, which hangs on 1; all of them are replaced by 1
    assert result.link.tolist() == [1, -1, 1, 2, 1]
    assert result.duplicate_of.tolist() == [1, -1, 1, 1, 1]


def test_protected_images_stay_and_stand_for_the_others():
    candidates = images(4, rank=[2, 3, 0, 1], protected=[2, 3])
    crowd = in_blocks((0, 2, 0.99), (1, 2, 0.95), (2, 3, 0.99))
    for rule in ("component", "direct"):
        result = group_duplicates(candidates, crowd, threshold=0.9, rule=rule)
        assert result.kept.tolist() == [False, False, True, True]
        assert result.duplicate_of.tolist() == [2, 2, -1, -1]


def test_a_pair_at_the_threshold_is_not_above_it():
    result = group_duplicates(images(2), in_blocks((0, 1, 0.5)), threshold=0.5)
    assert result.kept.all()


def test_pairs_of_contents_that_do_not_take_part_are_ignored():
    candidates = Candidates(np.array([1, 3]), np.array([1, 3]), np.array([0, 1]), np.zeros(2, bool))
    result = group_duplicates(candidates, in_blocks((1, 2, 0.99), (2, 3, 0.99)), threshold=0.9)
    assert result.kept.all()
    assert result.component.tolist() == [1, 3]


def test_nothing_gives_nothing():
    result = group_duplicates(images(0), in_blocks(), threshold=0.9)
    assert len(result.kept) == 0


@st.composite
def problems(draw):
    """Random candidates and pairs between their contents."""
    num = draw(st.integers(1, 24))
    content = np.array([draw(st.integers(0, k)) for k in range(num)])
    content = content[content]  # of a content, the first image is a member
    rank = np.array(draw(st.permutations(range(num))))
    protected = rank < draw(st.integers(0, num))  # protected images rank before the others
    contents = np.unique(content).tolist()
    ends = st.sampled_from(contents)
    edges = draw(st.lists(st.tuples(ends, ends, st.integers(80, 100)), max_size=40))
    triples = {(min(a, b), max(a, b)): s / 100 for a, b, s in edges if a != b}
    candidates = Candidates(np.arange(num), content, rank, protected)
    return candidates, [(a, b, s) for (a, b), s in triples.items()]


def greedy(candidates, triples, threshold):
    """Kept images of the direct rule, walked one by one from the best."""
    kept_contents, kept = [], set()
    for row in np.argsort(candidates.rank).tolist():
        content = candidates.content[row]
        near = any(
            s > threshold
            and ((a == content and b in kept_contents) or (b == content and a in kept_contents))
            for a, b, s in ((a, b, float(np.float32(s))) for a, b, s in triples)
        )
        if candidates.protected[row] or (content not in kept_contents and not near):
            kept.add(row)
            kept_contents.append(content)
    return kept


@given(problems())
def test_the_direct_rule_is_the_greedy_walk_from_best_to_worst(problem):
    candidates, triples = problem
    result = group_duplicates(candidates, in_blocks(*triples), threshold=0.9, rule="direct")
    assert set(np.flatnonzero(result.kept).tolist()) == greedy(candidates, triples, 0.9)


@given(problems(), st.sampled_from(["component", "direct"]), st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_the_order_of_the_pairs(problem, rule, random):
    candidates, triples = problem
    shuffled = triples.copy()
    random.shuffle(shuffled)
    one = group_duplicates(candidates, in_blocks(*triples), threshold=0.9, rule=rule)
    other = group_duplicates(candidates, in_blocks(*shuffled), threshold=0.9, rule=rule)
    for name in ("kept", "reason", "component", "duplicate_of", "link", "similarity"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(problems(), st.sampled_from(["component", "direct"]), st.sampled_from([0, 3]))
def test_every_dropped_image_reaches_the_one_that_stays_through_its_links(
    problem, rule, max_component
):
    candidates, triples = problem
    result = group_duplicates(
        candidates, in_blocks(*triples), threshold=0.9, rule=rule, max_component=max_component
    )
    known = {(a, b): s for a, b, s in triples}
    for row in np.flatnonzero(~result.kept).tolist():
        assert result.kept[result.duplicate_of[row]]
        here, hops = row, 0
        while here != result.duplicate_of[row]:
            link = int(result.link[here])
            a, b = sorted((int(candidates.content[here]), int(candidates.content[link])))
            assert a == b or known[a, b] > 0.9
            here, hops = link, hops + 1
            assert hops <= len(candidates.image_id)


@given(problems())
def test_one_image_of_each_component_stays_and_the_protected_ones(problem):
    candidates, triples = problem
    result = group_duplicates(candidates, in_blocks(*triples), threshold=0.9)
    for component in np.unique(result.component):
        members = np.flatnonzero(result.component == component)
        best = members[np.argmin(candidates.rank[members])]
        expected = set(members[candidates.protected[members]].tolist()) | {best}
        assert set(members[result.kept[members]].tolist()) == expected


@given(problems(), st.sampled_from(["component", "direct"]), st.data())
def test_every_source_of_a_component_keeps_an_image_its_best_if_the_rule_keeps_none(
    problem, rule, data
):
    candidates, triples = problem
    num = len(candidates.image_id)
    source = np.array(data.draw(st.lists(st.integers(0, 2), min_size=num, max_size=num)))
    blocks = in_blocks(*triples)
    alone = group_duplicates(candidates, blocks, threshold=0.9, rule=rule)
    result = group_duplicates(replace(candidates, source=source), blocks, threshold=0.9, rule=rule)
    for component in np.unique(alone.component):
        for number in np.unique(source):
            rows = np.flatnonzero((alone.component == component) & (source == number))
            expected = set(rows[alone.kept[rows]].tolist())
            if len(rows) and not expected:
                expected = {int(rows[np.argmin(candidates.rank[rows])])}
            assert set(rows[result.kept[rows]].tolist()) == expected
    assert (result.duplicate_of[result.kept] == -1).all()
    same = ~result.kept
    np.testing.assert_array_equal(result.duplicate_of[same], alone.duplicate_of[same])


@given(problems(), st.sampled_from(["component", "direct"]), st.integers(2, 5))
def test_under_medoid_an_image_is_at_most_two_pairs_from_the_one_that_stays(
    problem, rule, max_component
):
    candidates, triples = problem
    result = group_duplicates(
        candidates,
        in_blocks(*triples),
        threshold=0.9,
        rule=rule,
        max_component=max_component,
        on_large="medoid",
    )
    sizes = {c: len(set(candidates.content[result.component == c])) for c in result.component}
    row_of = {int(c): k for k, c in enumerate(candidates.image_id)}
    for row in np.flatnonzero(~result.kept).tolist():
        hops, here = 0, row
        while here != result.duplicate_of[row]:
            link = row_of[int(result.link[here])]
            hops += int(candidates.content[link] != candidates.content[here])
            here = link
        assert hops <= 2 or sizes[result.component[row]] <= max_component
