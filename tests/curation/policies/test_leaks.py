import numpy as np
import pytest

from dinoforge.curation.policies.leaks import Leaks, find_leaks, nearest_references, pairs_to_show
from dinoforge.curation.policies.pairs import Pairs

# 0 - 1 - 2 with 9 a reference near 1 only; 5 - 6 apart from everything.
PAIRS = Pairs(
    np.array([0, 1, 1, 5, 2]),
    np.array([1, 2, 9, 6, 8]),
    np.array([0.9, 0.9, 0.8, 0.99, 0.4], np.float32),
)
IS_REFERENCE = np.isin(np.arange(10), [8, 9])


def test_direct_drops_what_is_itself_near_a_reference():
    direct, _ = find_leaks(PAIRS.above(0.7), IS_REFERENCE)
    assert direct.content.tolist() == [1]
    assert direct.reference.tolist() == [9]


def test_component_drops_all_that_hangs_together_with_a_reference():
    _, component = find_leaks(PAIRS.above(0.7), IS_REFERENCE)
    assert component.content.tolist() == [0, 1, 2]
    assert component.reference.tolist() == [-1, 9, -1]
    assert np.isnan(component.similarity[[0, 2]]).all()


def test_the_nearest_reference_is_the_evidence():
    pairs = Pairs(np.array([1, 1]), np.array([8, 9]), np.array([0.8, 0.9], np.float32))
    direct, _ = find_leaks(pairs, IS_REFERENCE)
    assert direct.reference.tolist() == [9]


def test_no_pairs_no_leaks():
    none = PAIRS.where(np.zeros(5, bool))
    direct, component = find_leaks(none, IS_REFERENCE)
    assert len(direct.content) == len(component.content) == 0


def test_the_leaks_of_one_set_include_chains_through_another():
    pairs = Pairs(np.array([1, 1, 2]), np.array([2, 9, 8]), np.full(3, 0.9, np.float32))
    in_set = np.arange(10) == 8
    direct, component = find_leaks(pairs, IS_REFERENCE, in_set=in_set)
    assert (direct.content.tolist(), direct.reference.tolist()) == ([2], [8])
    assert component.content.tolist() == [1, 2]


def test_the_closest_pairs_below_the_threshold_are_known():
    closest = nearest_references(PAIRS, IS_REFERENCE, IS_REFERENCE)
    assert closest.content.tolist() == [1, 2]
    assert closest.reference.tolist() == [9, 8]
    assert closest.similarity.tolist() == pytest.approx([0.8, 0.4])


def test_the_surest_the_most_doubtful_and_the_next_pairs_are_shown():
    similarity = np.linspace(0, 1, 101).astype(np.float32)
    content = np.arange(101)

    def select(first, stop):
        at = slice(first, stop)
        return Leaks(content[at], content[at], similarity[at])

    shown, missed = pairs_to_show(select(51, 101), select(0, 53))
    assert (51 + shown).tolist() == [*range(100, 88, -1), *range(58, 50, -1)]
    assert missed.tolist() == [*range(50, 46, -1)]  # 51 and 52 leak
    few, _ = pairs_to_show(select(51, 60), select(0, 51))
    assert (51 + few).tolist() == [*range(59, 50, -1)]
