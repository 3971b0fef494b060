"""Draws by position: known answers, independence of batching, permutations of any size."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dinoforge.randomness import Draws, KeyedPermutation, philox4x32, uniforms

LVD = 142_109_386


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that Random123 ships for philox4x32, 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    counters = np.array([counter, counter], np.uint64).T
    result = philox4x32(counters, key)
    assert result[:, 0].tolist() == list(expected)
    assert result[:, 1].tolist() == list(expected)


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_a_row_depends_on_its_own_position_only(positions, count, epoch):
    together = uniforms(7, "test", positions, epoch=epoch, count=count)
    alone = [uniforms(7, "test", [p], epoch=epoch, count=count + 3)[0, :count] for p in positions]
    np.testing.assert_array_equal(together, alone)


def test_each_row_may_have_its_own_epoch():
    rows = uniforms(0, "test", [5, 5], epoch=[3, 4], count=2)
    np.testing.assert_array_equal(rows[1:], uniforms(0, "test", [5], epoch=4, count=2))


def test_large_requests_are_cut_without_a_seam():
    whole = uniforms(1, "test", np.arange(40_000), count=3)
    np.testing.assert_array_equal(
        whole[16_000:17_000], uniforms(1, "test", range(16_000, 17_000), count=3)
    )
    assert whole.shape == (40_000, 3)
    assert uniforms(1, "test", [], count=3).shape == (0, 3)


def test_numbers_are_uniform_and_uncorrelated():
    numbers = uniforms(0, "test", np.arange(50_000), count=4)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(np.hstack([numbers[:-1], numbers[1:]]).T) - np.eye(8)
    assert abs(correlation).max() < 0.02  # 4.5 standard deviations at 50,000


def test_seed_purpose_epoch_and_position_each_change_the_numbers():
    base = uniforms(1, "crop", [5], count=8)
    others = [
        uniforms(2, "crop", [5], count=8),
        uniforms(1, "mask", [5], count=8),
        uniforms(1, "crop", [5], count=8, epoch=1),
        uniforms(1, "crop", [5 + 2**32], count=8),
    ]
    for other in others:
        assert not np.intersect1d(base, other).size


@pytest.mark.parametrize("buffer", [1, 7, 64])
def test_a_reader_gives_the_numbers_of_the_batch_function(buffer):
    expected = uniforms(3, "test", [11], epoch=2, count=100)[0]
    draws = Draws(3, "test", 11, 2, buffer=buffer)
    got = [draws.uniform() for _ in range(100)]
    np.testing.assert_array_equal(got, expected)


def test_readers_made_together_equal_readers_made_alone():
    together = Draws.many(3, "test", [4, 9], 1, buffer=5)
    for position, draws in zip([4, 9], together, strict=True):
        alone = Draws(3, "test", position, 1)
        assert [draws.uniform() for _ in range(20)] == [alone.uniform() for _ in range(20)]
    assert Draws.many(3, "test", []) == []


def test_integers_cover_their_range_evenly():
    readers = Draws.many(0, "test", range(3000))
    integers = [draws.integer(-1, 3) for draws in readers]
    assert stats.chisquare(np.unique(integers, return_counts=True)[1]).pvalue > 1e-3
    assert set(integers) == {-1, 0, 1, 2}
    with pytest.raises(AssertionError):
        readers[0].integer(2, 2)


@given(st.integers(1, 700), st.integers(-5, 5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_sample_comes_once_in_each_epoch(n, seed, epoch):
    permutation = KeyedPermutation(n, seed, epoch=epoch)
    order = permutation[np.arange(n)]
    assert sorted(order.tolist()) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 16, 63, 64, 65, 4096, 65_536])
def test_powers_of_two_and_their_neighbors_are_permuted_whole(n):
    permutation = KeyedPermutation(n, 0)
    order = permutation[np.arange(n)]
    assert np.unique(order).size == n == len(permutation)
    assert permutation[n - 1] == order[-1]


def test_the_order_of_142_million_samples_is_a_permutation_in_constant_memory():
    permutation = KeyedPermutation(LVD, 0)
    ends = np.array([0, 1, LVD - 2, LVD - 1])
    places = np.unique(np.concatenate([ends, np.arange(0, LVD, 1423)]))
    order = permutation[places]
    assert np.unique(order).size == places.size
    assert order.min() >= 0
    assert order.max() < LVD
    assert stats.kstest(order / LVD, "uniform").pvalue > 1e-3
    assert permutation._round_keys.nbytes < 200


def test_epochs_seeds_and_purposes_have_different_orders():
    base = KeyedPermutation(1000, 0)[np.arange(1000)]
    for other in (
        KeyedPermutation(1000, 0, epoch=1),
        KeyedPermutation(1000, 1),
        KeyedPermutation(1000, 0, "crops"),
    ):
        assert (other[np.arange(1000)] == base).sum() < 10  # 1 is expected of two random orders


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_of_few_samples_are_equally_likely(n):
    orders = [tuple(KeyedPermutation(n, seed)[np.arange(n)].tolist()) for seed in range(2400)]
    counts = [orders.count(order) for order in permutations(range(n))]
    assert sum(counts) == len(orders)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_neighboring_places_get_unrelated_samples():
    order = KeyedPermutation(100_003, 5)[np.arange(100_003)] / 100_003
    for lag in (1, 2, 317):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 0.015


@pytest.mark.parametrize("position", [-1, 10, np.array([0, 10])])
def test_a_place_outside_the_order_is_refused(position):
    with pytest.raises(IndexError, match=r"outside 0 \.\. 9"):
        KeyedPermutation(10, 0)[position]
