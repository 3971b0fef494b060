"""k-means: nearest centroids, the objective against FAISS, empty clusters, fixed results."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoforge.clusters.hierarchy import check_levels, cluster_levels, nearest_rows
from dinoforge.clusters.lloyd import KMeans, Points, assign_rows
from dinoforge.errors import UsageError
from dinoforge.neighbors.products import require_faiss


def as_points(rows):
    return Points(np.asarray(rows, np.float32).__getitem__, np.arange(len(rows)))


def blobs(num, dim, centers, seed=0):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(centers, dim)) * 2
    return (middles[rng.integers(0, centers, num)] + rng.normal(size=(num, dim))).astype(np.float32)


def test_a_row_belongs_to_the_nearest_centroid_and_ties_to_the_first():
    rows, centroids = blobs(300, 6, 5), blobs(20, 6, 5, seed=1)
    centroids[13] = centroids[4]
    labels, distances = assign_rows(rows, centroids)
    apart = ((rows[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)
    np.testing.assert_array_equal(labels, apart.argmin(axis=1))
    np.testing.assert_allclose(distances, apart.min(axis=1))


@pytest.mark.parametrize("num", [30, 300])
def test_the_objective_is_that_of_faiss_or_lower(num):
    faiss = require_faiss()
    rows = blobs(6000, 16, 60)
    peer = faiss.Kmeans(16, num, niter=25, seed=1, max_points_per_centroid=6000)
    peer.train(rows)
    reached = assign_rows(rows, peer.centroids)[1].sum()
    result = KMeans(iterations=25).fit(as_points(rows), num, "test")
    assert result.objective <= 1.01 * reached
    assert result.num_empty == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_clusters_are_never_empty_and_number_all_rows(different, num_rows, num, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(different, 3)).astype(np.float32)[rng.integers(0, different, num_rows)]
    result = KMeans(iterations=8, block_rows=7, seed=seed).fit(as_points(rows), num, "test")
    used = np.unique(result.labels)
    np.testing.assert_array_equal(used, np.arange(len(result.centroids)))
    assert len(result.centroids) + result.num_empty == min(num, num_rows)
    np.testing.assert_array_equal(result.labels, assign_rows(rows, result.centroids)[0])


def test_a_cluster_that_loses_its_rows_starts_anew_at_the_farthest_row():
    rows = np.array([[0], [1], [2], [30], [90]], np.float32)
    kmeans = KMeans(block_rows=2)
    centroids = np.array([[1], [40], [500], [600]], np.float32)
    blocks = (kmeans._sums(as_points(rows), centroids, index) for index in range(3))
    state = kmeans._move(as_points(rows), centroids, blocks)
    np.testing.assert_array_equal(state["centroids"][:, 0], [1, 60, 90, 0])
    assert state["reseeded"] == 2


def test_blocks_change_the_last_bits_at_most():
    rows = blobs(500, 5, 9)
    one, other = (KMeans(block_rows=size).fit(as_points(rows), 9, "a") for size in (500, 61))
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.centroids, other.centroids, rtol=1e-6, atol=1e-6)


def test_each_level_clusters_the_centroids_below():
    rows = blobs(400, 4, 12)
    result = cluster_levels(as_points(rows), [50, 10, 3], KMeans(), resampling=[1])
    assert [len(level.centroids) for level in result.levels] == [50, 10, 3]
    assert [len(level.labels) for level in result.levels] == [400, 50, 10]
    by_hand = result.levels[2].labels[result.levels[1].labels[result.levels[0].labels]]
    np.testing.assert_array_equal(result.roots(), by_hand)


def test_resampling_takes_the_rows_nearest_to_each_centroid():
    result = KMeans().fit(as_points(blobs(200, 3, 4)), 6, "test")
    chosen = nearest_rows(result, 5)
    for label in range(6):
        members = np.flatnonzero(result.labels == label)
        nearest = np.intersect1d(chosen, members)
        assert len(nearest) == min(5, len(members))
        farthest = result.distances[nearest].max()
        assert (result.distances[np.setdiff1d(members, nearest)] >= farthest).all()


def test_more_clusters_than_images_are_refused_in_one_line():
    with pytest.raises(UsageError, match="30 clusters of 20 images"):
        check_levels([30, 5], 20, "balance.levels")
