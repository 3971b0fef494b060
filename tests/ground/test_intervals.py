import numpy as np
import pytest
from scipy.stats import binomtest

from dinoforge.intervals import (
    bootstrap_counts,
    bootstrap_indices,
    bootstrap_intervals,
    mcnemar_exact,
    resampled_means,
    unanimous_interval,
    wilson_interval,
)


def test_resampled_means_are_means_of_the_rows_drawn():
    values = np.random.default_rng(0).integers(0, 2, (30, 3))
    index = np.random.default_rng(1).integers(0, 30, (7, 30))
    np.testing.assert_allclose(resampled_means(values, [index]), values[index].mean(axis=1))


def test_an_interval_has_the_width_of_the_binomial():
    correct = (np.arange(400) < 320).astype(int)[:, None]
    ((low, high),) = bootstrap_intervals(correct, resamples=4000, seed=0)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.8 - half, abs=0.006)
    assert high == pytest.approx(0.8 + half, abs=0.006)


def test_a_paired_difference_is_tighter_than_two_intervals():
    a = (np.arange(200) < 120).astype(int)
    b = a.copy()
    b[:6] = 0  # worse on six images, equal on all others
    (low, high), (low_a, high_a) = bootstrap_intervals(
        np.stack([a - b, a], axis=1), resamples=2000, seed=0
    )
    assert 0 < low < 0.03 < high
    assert high - low < (high_a - low_a) / 2


def test_an_interval_does_not_depend_on_what_else_is_asked():
    values = np.random.default_rng(2).integers(0, 2, (50, 4))
    together = bootstrap_intervals(values, resamples=500, seed=3)
    alone = [bootstrap_intervals(values[:, i : i + 1], resamples=500, seed=3)[0] for i in range(4)]
    assert together == alone


def test_draws_are_even_and_keyed():
    index = np.concatenate(list(bootstrap_indices(10, 3000, 0)))
    assert index.shape == (3000, 10)
    counts = np.bincount(index.ravel(), minlength=10)
    assert len(counts) == 10
    assert np.abs(counts - 3000).max() < 250  # five standard deviations
    other = np.concatenate(list(bootstrap_indices(10, 3000, 1)))
    assert (index != other).mean() == pytest.approx(0.9, abs=0.02)


def test_counts_are_those_of_the_indices():
    values = np.random.default_rng(0).random(12)
    index = np.concatenate(list(bootstrap_indices(12, 9, 4)))
    counts = np.stack(list(bootstrap_counts(12, 9, 4)))
    assert counts.shape == (9, 12)
    np.testing.assert_allclose(counts @ values / 12, values[index].mean(axis=1))


def test_steps_do_not_show(monkeypatch):
    import dinoforge.intervals

    whole = np.concatenate(list(bootstrap_indices(20, 40, 5)))
    monkeypatch.setattr(dinoforge.intervals, "_DRAWS_AT_ONCE", 60)
    parts = list(bootstrap_indices(20, 40, 5))
    assert len(parts) == 14
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_wilson_knows_that_all_right_is_not_certainty():
    low, high = wilson_interval(50, 50)
    # Of 50 right, the score interval ends at n / (n + z^2).
    assert low == pytest.approx(50 / (50 + 1.96**2), abs=1e-4)
    assert high == 1.0
    assert wilson_interval(0, 50) == pytest.approx((0.0, 1 - low), abs=1e-12)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (3, 3, 1.0), (6, 1, 2 * (1 + 7) / 128)],
)
def test_mcnemar_by_hand(wins, losses, p):
    assert mcnemar_exact(wins, losses) == pytest.approx(p)
    assert mcnemar_exact(losses, wins) == pytest.approx(p)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 30, 1000])
def test_equal_differences_are_clear_when_the_exact_test_finds_them_so(n):
    low, high = unanimous_interval(1, n)
    assert (low > 0) == (mcnemar_exact(n, 0) < 0.05)
    assert -1 <= low < high == 1
    assert unanimous_interval(-1, n) == (-1, -low)
    # Without any difference: as many others as Clopper and Pearson allow, on either side.
    most = binomtest(n, n).proportion_ci(method="exact").low
    assert unanimous_interval(0, n) == pytest.approx((most - 1, 1 - most))
    assert low == pytest.approx(2 * most - 1)
