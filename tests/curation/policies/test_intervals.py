import numpy as np
import pytest

from dinoforge.curation.policies.intervals import bootstrap_mean, share


def test_wilson_interval_of_a_textbook_case():
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662
    result = share(81, 263)
    assert result["value"] == pytest.approx(0.3080, abs=1e-4)
    assert result["interval"] == pytest.approx([0.2553, 0.3662], abs=1e-4)


def test_a_share_of_nothing_has_no_value():
    assert share(0, 0)["value"] is None


def test_the_interval_touches_1_when_all_hit():
    assert share(20, 20)["interval"][1] == 1.0


def test_bootstrap_interval_holds_the_mean_and_is_the_same_again():
    values = np.linspace(0, 1, 50)
    one = bootstrap_mean(values, seed=1, purpose="x")
    assert one == bootstrap_mean(values, seed=1, purpose="x")
    low, high = one["interval"]
    # standard error of the mean of 50 uniform values is 0.0416
    assert low == pytest.approx(0.5 - 1.96 * 0.0416, abs=0.02)
    assert high == pytest.approx(0.5 + 1.96 * 0.0416, abs=0.02)
