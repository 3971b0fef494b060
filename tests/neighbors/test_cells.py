"""The join by cells: exact where rows share a cell, each pair once, and its recall is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dinoforge.neighbors import cells as cells_module
from dinoforge.neighbors.cell_join import (
    Members,
    join_cells,
    join_in_cell,
    join_sample,
    members_of_cells,
    smallest_common_cell,
    split_cells,
)
from dinoforge.neighbors.cells import choose_num_cells, nearest_cells, train_cells
from dinoforge.neighbors.join import join_above

NEAREST = hnp.arrays(
    np.int32, st.tuples(st.integers(0, 20), st.just(3)), elements=st.integers(-1, 6)
)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    """2,000 unit rows; 300 are copies of another one with cosines from 0.6 to 1."""
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(2000, 32)))
    rho = rng.uniform(0.6, 1, (300, 1))
    rows[:300] = unit(rho * rows[300:600] + np.sqrt(1 - rho**2) * unit(rng.normal(size=(300, 32))))
    return rows


@pytest.fixture(scope="module")
def centroids(rows):
    return train_cells(rows, 40, seed=1)


def as_dict(edges):
    columns = (column.tolist() for column in (edges.i, edges.j, edges.similarity))
    return {(i, j): similarity for i, j, similarity in zip(*columns, strict=True)}


def test_centroids_are_unit_rows_and_follow_from_the_seed(rows, centroids):
    assert centroids.shape == (40, 32)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(centroids, train_cells(rows, 40, seed=1))
    assert not np.array_equal(centroids, train_cells(rows, 40, seed=2))


def test_no_cell_is_empty_and_none_holds_most_rows(rows, centroids):
    sizes = np.bincount(nearest_cells(rows, centroids, 1)[:, 0], minlength=40)
    assert sizes.min() > 5
    assert sizes.max() < 150


def test_rows_that_are_zero_or_not_finite_are_in_no_cell(rows):
    damaged = rows.copy()
    damaged[3], damaged[7] = 0, np.nan
    centroids = train_cells(damaged, 9, seed=0)
    assert np.isfinite(centroids).all()
    nearest = nearest_cells(damaged, centroids, 2)
    assert (nearest < 0).all(axis=1).nonzero()[0].tolist() == [3, 7]
    assert join_cells(damaged, nearest, 9, threshold=0.9).num_excluded == 2


@pytest.mark.parametrize("num", [0, 1, 3])
def test_with_fewer_rows_than_cells_every_row_is_a_cell(rows, num):
    centroids = train_cells(rows[:num], 5, seed=0)
    np.testing.assert_allclose(centroids, rows[:num], atol=1e-6)
    assert nearest_cells(rows[:4], centroids, 2).shape == (4, 2)


def test_the_nearest_cells_are_those_of_brute_force(rows, centroids, monkeypatch):
    monkeypatch.setattr(cells_module, "_ROWS_AT_ONCE", 300)
    nearest = nearest_cells(rows, centroids, 3)
    products = rows.astype(np.float64) @ centroids.T.astype(np.float64)
    np.testing.assert_array_equal(nearest, np.argsort(-products, axis=1)[:, :3])


@pytest.mark.parametrize("r", [1, 3])
def test_edges_are_the_exact_ones_whose_rows_share_a_cell(rows, centroids, r):
    nearest = nearest_cells(rows, centroids, r)
    exact = as_dict(join_above(rows, threshold=0.6))
    shared = {
        pair: value
        for pair, value in exact.items()
        if set(nearest[pair[0]]) & set(nearest[pair[1]])
    }
    edges = join_cells(rows, nearest, 40, threshold=0.6)
    assert as_dict(edges) == shared
    assert list(as_dict(edges)) == sorted(shared)
    assert len(shared) > (0.5 if r == 1 else 0.8) * len(exact)


def test_more_cells_per_row_find_more_pairs(rows, centroids):
    counts = [
        len(join_cells(rows, nearest_cells(rows, centroids, r), 40, threshold=0.6))
        for r in (1, 2, 4)
    ]
    assert counts == sorted(set(counts))


def test_a_cell_joined_in_blocks_gives_its_pairs_once(rows, centroids):
    nearest = nearest_cells(rows, centroids, 3)
    members, starts = members_of_cells(nearest, 40)
    ids = members[starts[7] : starts[8]]
    whole, a, b = (
        Members(rows[part], nearest[part])
        for part in (ids, ids[: len(ids) // 2], ids[len(ids) // 2 :])
    )
    half = len(a.rows)
    parts = [as_dict(join_in_cell(7, *members, threshold=0.3)) for members in ((a,), (b,), (a, b))]
    offsets = [(0, 0), (half, half), (0, half)]
    moved = {
        (i + di, j + dj): value
        for part, (di, dj) in zip(parts, offsets, strict=True)
        for (i, j), value in part.items()
    }
    assert moved == as_dict(join_in_cell(7, whole, threshold=0.3))
    assert len(moved) == sum(map(len, parts)) > 0


@given(NEAREST)
def test_the_smallest_common_cell_is_that_of_sets(nearest):
    a, b = nearest, nearest[::-1]
    shared = [set(x) & set(y) - {-1} for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert smallest_common_cell(a, b).tolist() == [min(cells, default=-1) for cells in shared]


@given(NEAREST)
def test_members_are_listed_by_cell(nearest):
    members, starts = members_of_cells(nearest, 7)
    for cell in range(7):
        of_cell = members[starts[cell] : starts[cell + 1]].tolist()
        assert of_cell == np.nonzero(nearest == cell)[0].tolist()


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 100), st.integers(1, 30))
def test_ranges_cover_all_cells_and_keep_their_limits(sizes, max_products, max_rows):
    ranges = list(
        split_cells(np.array(sizes, np.int64), max_products=max_products, max_rows=max_rows)
    )
    assert list(itertools.chain(*(range(*ends) for ends in ranges))) == list(range(len(sizes)))
    for first, stop in ranges:
        part = sizes[first:stop]
        within = sum(size**2 for size in part) <= max_products and sum(part) <= max_rows
        assert within or len(part) == 1


def test_the_recall_of_a_sample_is_that_of_all_rows(rows, centroids):
    nearest = nearest_cells(rows, centroids, 1)
    members = Members(rows, nearest)
    pairs = join_sample(members, members, threshold=0.6)
    is_other = pairs.i != pairs.j
    num_edges = len(join_cells(rows, nearest, 40, threshold=0.6))
    total = len(join_above(rows, threshold=0.6))
    # Every pair comes from members of its rows.
    assert int(pairs.is_found[is_other].sum()) == 2 * num_edges
    assert int(is_other.sum()) == 2 * total
    assert num_edges < total


def test_the_number_of_cells_costs_least():
    def cost(num, n=1_000_000, r=4):
        return num + 2.25 * n * r**2 / (2 * num)

    best = choose_num_cells(1_000_000, 4)
    assert cost(best) < min(cost(0.9 * best), cost(1.1 * best))
    assert choose_num_cells(0, 4) == 1
