import numpy as np

from dinoforge.curation.policies.leaks import find_leaks
from dinoforge.curation.policies.pairs import Pairs

# 0 - 1 - 2 with 9 a reference near 1 only; 5 - 6 apart from everything.
PAIRS = Pairs(
    np.array([0, 1, 1, 5, 2]),
    np.array([1, 2, 9, 6, 8]),
    np.array([0.9, 0.9, 0.8, 0.99, 0.4], np.float32),
)
IS_REFERENCE = np.isin(np.arange(10), [8, 9])


def test_direct_drops_what_is_itself_near_a_reference():
    direct, _ = find_leaks(PAIRS, IS_REFERENCE, 0.7)
    assert direct.content.tolist() == [1]
    assert direct.reference.tolist() == [9]


def test_component_drops_all_that_hangs_together_with_a_reference():
    _, component = find_leaks(PAIRS, IS_REFERENCE, 0.7)
    assert component.content.tolist() == [0, 1, 2]
    assert component.reference.tolist() == [-1, 9, -1]
    assert np.isnan(component.similarity[[0, 2]]).all()


def test_the_nearest_reference_is_the_evidence():
    pairs = Pairs(np.array([1, 1]), np.array([8, 9]), np.array([0.8, 0.9], np.float32))
    direct, _ = find_leaks(pairs, IS_REFERENCE, 0.7)
    assert direct.reference.tolist() == [9]


def test_no_pairs_no_leaks():
    none = PAIRS.where(np.zeros(5, bool))
    direct, component = find_leaks(none, IS_REFERENCE, 0.7)
    assert len(direct.content) == len(component.content) == 0
