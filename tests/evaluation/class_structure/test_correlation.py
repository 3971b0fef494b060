"""Correlations of class distances against SciPy; intervals and p-values behave as they should."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform
from scipy.stats import pearsonr, spearmanr

from dinoforge.clusters.class_structure import feature_distances
from dinoforge.evaluation.class_structure.correlation import METRICS, score_structure


@pytest.fixture
def matrices(rng):
    """Distances of 12 classes in features, and noisy, rounded ones as a taxonomy."""
    means = rng.normal(size=(12, 5))
    features = feature_distances(means - means.mean(axis=0))
    noisy = means + 0.4 * rng.normal(size=means.shape)
    return features, np.round(4 * feature_distances(noisy - noisy.mean(axis=0)))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_resample_scores_as_the_drawn_classes_do(matrices, seed):
    """SciPy on the rows that were drawn, without pairs of a class with itself."""
    features, taxonomy = matrices
    drawn = np.random.default_rng(seed).integers(0, 12, 12)
    rows = np.sort(drawn)
    above = np.triu_indices(12, 1)
    differ = rows[above[0]] != rows[above[1]]
    x, y = (m[np.ix_(rows, rows)] for m in (features, taxonomy))
    along = cophenet(linkage(squareform(x, checks=False), "average"))
    expected = {
        "spearman": spearmanr(x[above][differ], y[above][differ]).statistic,
        "cophenetic": pearsonr(along[differ], y[above][differ]).statistic,
    }
    counts = np.bincount(drawn, minlength=12)
    got = {name: make(features, taxonomy)(counts) for name, make in METRICS.items()}
    assert got == pytest.approx(expected, abs=1e-12)


def test_an_interval_holds_its_value_and_a_related_taxonomy_is_significant(matrices):
    features, taxonomy = matrices
    settings = {"resamples": 200, "permutations": 199, "seed": 0}
    for score in score_structure(features, taxonomy, **settings).values():
        low, high = score.interval
        assert 0 < low < score.value < high < 1
        assert score.p_value == 1 / 200
    order = np.random.default_rng(1).permutation(12)
    unrelated = taxonomy[np.ix_(order, order)]
    for score in score_structure(features, unrelated, **settings).values():
        assert score.p_value > 0.05
        assert score.interval[0] < 0 < score.interval[1]


def test_p_values_of_unrelated_taxonomies_are_uniform(rng):
    """A share of 0.2 of 40 is 8, with a standard deviation of 2.5."""
    values = []
    for seed in range(40):
        means = rng.normal(size=(2, 8, 3))
        a, b = (feature_distances(each - each.mean(axis=0)) for each in means)
        scores = score_structure(a, b, resamples=1, permutations=49, seed=seed)
        values.append(scores["spearman"].p_value)
    assert 2 <= sum(value <= 0.2 for value in values) <= 16


def test_equal_distances_have_no_correlation(matrices):
    features, _ = matrices
    flat = 2.0 * (1 - np.eye(12))
    for make in METRICS.values():
        assert np.isnan(make(features, flat)(np.ones(12, np.int64)))
