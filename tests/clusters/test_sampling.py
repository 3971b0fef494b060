"""Water filling against a direct search, its properties over levels, the choice of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.clusters.sampling import choose_rows, share_over_levels, water_fill

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12)


def as_ids(values):
    return np.array(values, np.int64)


@given(st.lists(st.tuples(SIZES, st.integers(0, 200)), min_size=1, max_size=4), st.integers(0, 9))
def test_every_group_is_cut_at_the_largest_level_that_its_target_allows(groups, seed):
    sizes = as_ids([size for members, _ in groups for size in members])
    group = np.repeat(np.arange(len(groups)), [len(members) for members, _ in groups])
    targets = as_ids([target for _, target in groups])
    shares = water_fill(sizes, group, targets, seed=seed, purpose="test")
    for number, (drawn, target) in enumerate(groups):
        given_, members = shares[group == number], as_ids(drawn)
        assert given_.sum() == min(target, members.sum())
        cut = max(x for x in range(31) if np.minimum(members, x).sum() <= target)
        assert (given_ >= np.minimum(members, cut)).all()
        assert (given_ <= np.minimum(members, cut + 1)).all()


@given(st.data())
def test_shares_of_all_levels_add_up_to_the_target(data):
    sizes = as_ids(data.draw(SIZES))
    parents, num = [], len(sizes)
    for _ in range(data.draw(st.integers(0, 3))):
        _, parent = np.unique(
            data.draw(st.lists(st.integers(0, 5), min_size=num, max_size=num)), return_inverse=True
        )
        parents.append(parent.reshape(-1))
        num = int(parent.max()) + 1
    target = data.draw(st.integers(0, 400))
    shares = share_over_levels(sizes, parents, target, seed=1)
    assert [len(level) for level in shares] == [len(sizes), *(p.max() + 1 for p in parents)]
    for below, above, parent in zip(shares, shares[1:], parents, strict=False):
        np.testing.assert_array_equal(np.bincount(parent, below, len(above)), above)
    assert shares[-1].sum() == min(target, sizes.sum())
    assert (shares[0] <= sizes).all()


@pytest.mark.parametrize("rule", ["random", "nearest"])
def test_a_choice_does_not_depend_on_the_order_of_the_rows(rule):
    rng = np.random.default_rng(0)
    labels, ids = rng.integers(0, 5, 80).astype(np.int32), rng.permutation(1000)[:80]
    distances = rng.integers(0, 4, 80).astype(np.float32)
    shares = as_ids([3, 0, 50, 1, 7])
    chosen = choose_rows(labels, shares, ids, distances=distances, rule=rule, seed=3)
    np.testing.assert_array_equal(
        np.bincount(labels[chosen], minlength=5), np.minimum(shares, np.bincount(labels))
    )
    order = rng.permutation(80)
    again = choose_rows(
        labels[order], shares, ids[order], distances=distances[order], rule=rule, seed=3
    )
    np.testing.assert_array_equal(again, chosen[order])
    if rule == "nearest":
        left = ~chosen & (labels == 0)
        assert distances[chosen & (labels == 0)].max() <= distances[left].min()
