"""Filters of the exact join: the same edges, bit for bit, as plain products and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dinoforge.neighbors import filter_choice, join
from dinoforge.neighbors.filter_choice import choose_filter
from dinoforge.neighbors.filters import Int8Filter, PlainFilter, RotationFilter
from dinoforge.neighbors.join import join_above, join_rows, prepare_rows
from dinoforge.neighbors.products import multiply_int8

KINDS = (RotationFilter, Int8Filter)
SIZES = st.floats(-8, 8, width=16) | st.sampled_from([0.0, 1.0, 1e3, 1e-3, -1e12, 1e-12, 1e-25])


@st.composite
def tables(draw, dim):
    shape = (draw(st.integers(0, 9)), dim)
    if draw(st.booleans()):
        return draw(hnp.arrays(np.float32, shape, elements=SIZES.map(np.float32)))
    return np.random.default_rng(draw(st.integers(0, 99))).normal(size=shape).astype(np.float32)


@st.composite
def joins(draw):
    """Two tables of rows of any size, with copies or at random, and a filter for them."""
    dim = draw(st.integers(1, 20))
    a, b = draw(tables(dim)), draw(tables(dim))
    kept = draw(st.integers(1, dim))
    axes = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 3))).normal(size=(dim, dim)))[0]
    # Axes that are orthonormal to 3 digits only: what they lack is part of the bound.
    precision = draw(st.sampled_from([np.float32, np.float16]))
    pair_filter = draw(st.sampled_from(KINDS))(axes[:, :kept].astype(precision).astype(np.float32))
    return a, b, pair_filter


def assert_same(edges, expected):
    for name in ("i", "j", "similarity", "num_excluded"):
        assert np.array_equal(getattr(edges, name), getattr(expected, name)), name


@given(joins(), st.floats(-2, 70, width=16), st.integers(1, 5))
def test_any_rows_have_the_edges_of_plain_products(arrays, threshold, tile):
    a, b, pair_filter = arrays
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "_TILE_ROWS", tile)
        patch.setattr(join, "_TILE_COLUMNS", 2 * tile - 1)
        patch.setattr(join, "_MOST_CANDIDATES", 1.0)  # never back to plain products
        for other in (None, b):
            edges = join_above(a, other, threshold=threshold, pair_filter=pair_filter)
            expected = join_above(a, other, threshold=threshold, pair_filter=PlainFilter())
            assert_same(edges, expected)


@given(joins())
def test_every_pair_passes_at_its_own_product(arrays):
    """The threshold just below the product of a pair: the tightest bound that it has to pass."""
    a, b, pair_filter = arrays
    left, right = (prepare_rows(rows, pair_filter) for rows in (a, b))
    exact = left.rows.astype(np.float64) @ right.rows.astype(np.float64).T
    for i, j in np.ndindex(exact.shape):
        if left.is_usable[i] and right.is_usable[j]:
            bound = pair_filter.bound(left.codes, right.codes, float(exact[i, j]))
            assert pair_filter.above(left.codes.values, right.codes.values, bound)[i, j]


def unit_rows_in_few_directions(num, dim=64, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num, dim)) / (1 + np.arange(dim)) ** 0.7
    rows[num // 2 :] = rows[: num - num // 2] + rng.normal(0, 0.03, (num - num // 2, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [24, 64])
def test_few_candidates_beside_the_pairs_are_scored(kind, kept, monkeypatch):
    rows = unit_rows_in_few_directions(600)
    axes = filter_choice._principal_axes(rows)[:, -kept:]
    scored = []
    real = join.exact_scores
    monkeypatch.setattr(join, "exact_scores", lambda *a: scored.append(len(a[2])) or real(*a))
    edges = join_above(rows, threshold=0.9, pair_filter=kind(filter_choice._mixed(axes)))
    assert len(edges) <= sum(scored) < 0.02 * 600 * 599 / 2
    assert_same(edges, join_above(rows, threshold=0.9))
    assert len(edges) >= 200


def test_a_tile_that_nearly_all_pass_is_filtered_by_plain_products(monkeypatch):
    rows = unit_rows_in_few_directions(300)
    loose = RotationFilter(np.eye(64, dtype=np.float32)[:, -1:])
    scored = []
    real = join.exact_scores
    monkeypatch.setattr(join, "exact_scores", lambda *a: scored.append(len(a[2])) or real(*a))
    edges = join_above(rows, threshold=0.9, pair_filter=loose)
    assert sum(scored) < 1.1 * len(edges)
    assert_same(edges, join_above(rows, threshold=0.9))


def test_rows_prepared_once_are_joined_with_several():
    a, b, c = (unit_rows_in_few_directions(80, seed=seed) for seed in (0, 0, 1))
    pair_filter = Int8Filter(np.eye(64, dtype=np.float32))
    left = prepare_rows(a, pair_filter)
    for rows in (b.astype(np.float16), c):
        edges = join_rows(left, prepare_rows(rows, pair_filter), threshold=0.5)
        assert_same(edges, join_above(a, rows, threshold=0.5))


@pytest.mark.parametrize("num", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("columns", [8, 16, 136])
def test_products_of_int8_are_exact_for_every_shape(num, columns):
    rng = np.random.default_rng(num)
    for others in (1, 5, 8, 33):
        a, b = (rng.integers(-127, 128, (n, columns), np.int8) for n in (num, others))
        products = multiply_int8(a, b, np.empty((num, others), np.int32))
        assert np.array_equal(products, a.astype(np.int32) @ b.astype(np.int32).T)


@pytest.mark.parametrize("has_int8", [True, False])
def test_rows_in_few_directions_get_a_filter_that_is_logged(has_int8, monkeypatch, caplog):
    monkeypatch.setattr(filter_choice, "multiplies_int8", lambda: has_int8)
    how = {"threshold": 0.9, "backend": "numpy", "device": "cpu"}
    rows = unit_rows_in_few_directions(1200)
    with caplog.at_level("INFO", "dinoforge"):
        chosen = choose_filter(rows, num_products=2**26, **how)
    assert type(chosen) is (Int8Filter if has_int8 else RotationFilter)
    assert chosen.num_kept < 64 or has_int8
    assert str(chosen) in caplog.text
    assert "estimated speed" in caplog.text
    few = choose_filter(rows, num_products=2**25, **how)
    assert isinstance(few, PlainFilter)


def test_plain_products_stay_where_no_bound_pays(monkeypatch):
    monkeypatch.setattr(filter_choice, "multiplies_int8", lambda: False)
    rows = np.random.default_rng(0).normal(size=(1200, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    how = {"num_products": 2**30, "device": "cpu"}
    random_directions = choose_filter(rows, threshold=0.3, backend="numpy", **how)
    on_torch = choose_filter(
        unit_rows_in_few_directions(1200), threshold=0.9, backend="torch", **how
    )
    assert isinstance(random_directions, PlainFilter)
    assert isinstance(on_torch, PlainFilter)
