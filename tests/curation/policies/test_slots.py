import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.curation.policies.slots import cap_slots, collisions, gini, take_slots

# Two seeds that both want image 7 first; candidates best first.
IDS = np.array([[7, 3, 5, -1], [7, 4, 3, 9]])
SCORES = np.array([[0.9, 0.8, 0.7, -np.inf], [0.95, 0.6, 0.5, 0.4]], np.float32)


def granted(slots):
    return sorted(zip(slots.seed.tolist(), slots.rank.tolist(), slots.image_id.tolist()))  # noqa: B905


@pytest.mark.parametrize("policy", ["multiset", "distinct"])
def test_each_seed_gets_its_nearest(policy):
    slots = take_slots(IDS, SCORES, k=2, policy=policy)
    assert granted(slots) == [(0, 0, 7), (0, 1, 3), (1, 0, 7), (1, 1, 4)]


def test_fill_gives_a_taken_image_to_the_better_score_and_the_next_one_to_the_other():
    slots = take_slots(IDS, SCORES, k=2, policy="fill")
    assert granted(slots) == [(0, 1, 3), (0, 2, 5), (1, 0, 7), (1, 1, 4)]


def test_collisions_are_counted():
    slots = take_slots(IDS, SCORES, k=2, policy="multiset")
    counts = collisions(slots, asked=4, pool_size=10)
    assert counts["slots"] == 4
    assert counts["distinct"] == 3
    assert counts["multiplicity"] == {"1": 2, "2": 1}


def test_the_evidence_of_an_image_is_its_best_score():
    best = take_slots(IDS, SCORES, k=2, policy="multiset").first_of_each_image()
    assert best.image_id.tolist() == [3, 4, 7]
    assert best.seed.tolist() == [0, 1, 1]


@pytest.mark.parametrize("multiset", [True, False])
def test_a_cap_draws_slots_of_a_multiset_and_images_otherwise(multiset):
    ids = np.arange(2000).reshape(100, 20) % 700
    slots = take_slots(ids, -ids.astype(np.float32), k=20, policy="multiset", rule=2)
    of = {"multiset": multiset, "seed": 3, "purpose": "cap"}
    some, more = (cap_slots(slots, cap, **of) for cap in (150, 300))
    unit = [granted(part) if multiset else np.unique(part.image_id) for part in (some, more)]
    assert [len(part) for part in unit] == [150, 300]
    assert np.isin(granted(some), granted(more)).all()
    assert set(some.rule.tolist()) == {2}
    if not multiset:
        assert len(some.image_id) == np.isin(ids, unit[0]).sum()
    # Uniform: the mean id of 300 of 700 images is 349.5 with a standard deviation of 8.8.
    assert abs(np.unique(more.image_id).mean() - 349.5) < 40
    assert len(cap_slots(slots, 0, **of).rank) == len(cap_slots(slots, 2000, **of).rank) == 2000


def test_gini_of_equal_counts_is_0_and_of_one_owner_near_1():
    assert gini(np.array([3, 3, 3])) == 0
    assert gini(np.array([0] * 99 + [7])) == pytest.approx(0.99)
    assert gini(np.array([], int)) == 0


def one_by_one(ids, scores, k):
    """Walk all slots by descending score."""
    slots = [
        (-float(scores[s, r]), s, int(ids[s, r]), r)
        for s in range(ids.shape[0])
        for r in range(ids.shape[1])
        if ids[s, r] >= 0
    ]
    room, taken, got = [k] * len(ids), set(), []
    for _, seed, image, rank in sorted(slots):
        if room[seed] and image not in taken:
            room[seed] -= 1
            taken.add(image)
            got.append((seed, rank, image))
    return sorted(got)


@st.composite
def candidate_lists(draw):
    seeds, width = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    ids = np.full((seeds, width), -1)
    scores = np.full((seeds, width), -np.inf, np.float32)
    for seed in range(seeds):
        result = draw(st.lists(st.integers(0, 12), unique=True, max_size=width))
        value = sorted(
            draw(st.lists(st.integers(0, 9), min_size=len(result), max_size=len(result))),
            reverse=True,
        )
        ids[seed, : len(result)] = result
        scores[seed, : len(result)] = value
    return ids, scores


@given(candidate_lists(), st.integers(1, 5))
def test_fill_in_rounds_is_the_greedy_walk_by_score(lists, k):
    ids, scores = lists
    slots = take_slots(ids, scores, k=k, policy="fill")
    assert granted(slots) == one_by_one(ids, scores, k)
    assert len(set(slots.image_id.tolist())) == len(slots.image_id)


@given(candidate_lists(), st.integers(1, 5))
def test_slots_per_set_are_k_times_seeds_when_the_lists_are_full(lists, k):
    ids, scores = lists
    slots = take_slots(ids, scores, k=k, policy="multiset")
    expected = sum(min(k, int((row >= 0).sum())) for row in ids)
    assert len(slots.image_id) == expected
