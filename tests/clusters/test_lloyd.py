"""k-means: nearest centroids, the objective against FAISS, empty clusters, fixed results."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoforge.clusters.blocks import Points
from dinoforge.clusters.hierarchy import LevelPolicy, check_levels, cluster_levels, nearest_rows
from dinoforge.clusters.lloyd import KMeans, _move, _start_anew
from dinoforge.clusters.nearest import assign_rows
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
    np.testing.assert_allclose(distances, apart.min(axis=1), rtol=1e-6)


def test_the_nearest_of_thousands_of_centroids_is_exact_also_among_near_copies():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 24)).astype(np.float32)
    # The last centroids are the rows but for their last bits: they have the same products.
    close = np.nextafter(rows.repeat(3, axis=0), rng.choice([-9, 9], (120, 24)).astype(np.float32))
    centroids = np.concatenate([rng.normal(size=(4200, 24)).astype(np.float32), close, rows])
    centroids[7] = 0
    labels, distances = assign_rows(np.vstack([rows, centroids[:1] * 1e-3]), centroids)
    wide = centroids.astype(np.float64)
    scores = rows @ wide.T - 0.5 * (wide**2).sum(axis=1)
    exact = scores.max(axis=1) - scores[np.arange(40), labels[:-1]]
    assert exact.max() < 1e-5
    assert (labels[:-1] >= 4200).all()
    assert (labels[-1], distances[-1] > 0) == (7, True)
    one_by_one = [assign_rows(rows[i : i + 1], centroids)[0][0] for i in range(40)]
    np.testing.assert_array_equal(labels[:-1], one_by_one)


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
    state = _move(centroids, slice(0, 4), blocks)
    assert _start_anew(as_points(rows), state) == 2
    np.testing.assert_array_equal(state["centroids"][:, 0], [1, 60, 90, 0])


def test_blocks_change_the_last_bits_at_most():
    rows = blobs(500, 5, 9)
    one, other = (KMeans(block_rows=size).fit(as_points(rows), 9, "a") for size in (500, 61))
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.centroids, other.centroids, rtol=1e-6, atol=1e-6)


def test_each_level_clusters_the_centroids_below():
    rows = blobs(400, 4, 12)
    policies = [LevelPolicy(num, resampling=1) for num in (50, 10, 3)]
    result = cluster_levels(as_points(rows), policies, KMeans())
    assert [len(level.centroids) for level in result.levels] == [50, 10, 3]
    assert [len(level.labels) for level in result.levels] == [400, 50, 10]
    by_hand = result.levels[2].labels[result.levels[1].labels[result.levels[0].labels]]
    np.testing.assert_array_equal(result.roots(), by_hand)


def test_a_split_level_divides_every_coarse_cluster_alone():
    rows = blobs(600, 4, 12)
    coarse, parts = (
        cluster_levels(as_points(rows), [LevelPolicy(num, split=split)], KMeans()).levels[0]
        for num, split in ((10, 1), (50, 5))
    )
    assert len(parts.centroids) == 50
    assert (parts.num_empty, parts.labels.max()) == (0, 49)
    of_part = np.full(50, -1)
    of_part[parts.labels] = coarse.labels
    np.testing.assert_array_equal(of_part[parts.labels], coarse.labels)
    np.testing.assert_array_equal(np.bincount(of_part), 10 * [5])
    apart = rows - parts.centroids[parts.labels]
    np.testing.assert_allclose(parts.distances, np.linalg.norm(apart, axis=1), rtol=1e-5)
    assert parts.objective == pytest.approx((apart**2).sum())
    flat = KMeans().fit(as_points(rows), 50, "flat").objective
    assert flat < parts.objective < min(1.1 * flat, coarse.objective)


def test_clusters_of_fewer_rows_than_parts_get_fewer_parts():
    rows = np.repeat(np.eye(4, dtype=np.float32), [1, 2, 30, 30], axis=0)
    rows[3:] += np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32) * 1e-3
    result = cluster_levels(as_points(rows), [LevelPolicy(40, split=10)], KMeans()).levels[0]
    assert np.bincount(result.labels).min() > 0
    assert len(result.centroids) == 1 + 1 + 10 + 10
    assert result.num_empty == 18


def test_a_level_fitted_on_few_rows_still_has_all_rows():
    rows, seen = blobs(900, 3, 5), []

    def read(positions):
        seen.append(len(positions))
        return rows[positions]

    policy = LevelPolicy(5, fit_rows=20)
    points = Points(read, np.arange(900))
    level = cluster_levels(points, [policy], KMeans(iterations=9)).levels[0]
    assert (seen[0], seen[-1]) == (100, 900)
    assert set(seen[1:-1]) == {100}
    every = KMeans().fit(points, 5, "level1")
    assert len(level.labels) == 900
    assert every.objective <= level.objective < 1.1 * every.objective


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
