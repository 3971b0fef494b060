"""Class means by hand and in blocks, their dendrogram against SciPy."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist

from dinoforge.clusters import class_structure
from dinoforge.clusters.class_structure import (
    class_means,
    cophenetic_correlation,
    feature_distances,
    link,
)


def test_means_are_of_unit_rows_and_centered():
    rows = np.array([[3.0, 0], [0, 2], [5, 5], [0, 7], [-1, 0]], np.float32)
    means = class_means(rows, np.array([0, 0, -1, 1, 2]))
    raw = np.array([[0.5, 0.5], [0, 1], [-1, 0]])
    np.testing.assert_allclose(means, raw - raw.mean(axis=0))


def test_blocks_do_not_change_means(monkeypatch):
    draw = np.random.default_rng(0)
    rows, classes = draw.normal(size=(50, 4)).astype(np.float16), draw.integers(-1, 3, 50)
    whole = class_means(rows, classes)
    monkeypatch.setattr(class_structure, "_ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(class_means(rows, classes), whole, atol=1e-15)


def test_the_dendrogram_and_its_correlation_are_those_of_scipy():
    means = np.random.default_rng(1).normal(size=(9, 5))
    pairs = pdist(means, "cosine")
    expected = linkage(pairs, "average")
    tree = link(feature_distances(means))
    np.testing.assert_allclose(tree, expected, atol=1e-12)
    correlation = cophenetic_correlation(tree, feature_distances(means))
    assert correlation == pytest.approx(cophenet(expected, pairs)[0], abs=1e-12)


def test_equal_distances_have_no_correlation():
    flat = 1.0 - np.eye(4)
    assert cophenetic_correlation(link(flat), flat) is None
