"""The k nearest: exact, ties to the lowest id, the same for every back end, tile and partition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dinoforge.errors import UsageError
from dinoforge.neighbors import products, search
from dinoforge.neighbors.products import backend_for
from dinoforge.neighbors.search import Neighbors, merge_top_k, top_k

BACKENDS = ("numpy", "torch", "faiss")


def whole(most):
    """Rows of whole numbers: exact products, many ties, zero rows."""
    shape = st.tuples(st.integers(0, most), st.just(2))
    return hnp.arrays(np.float32, shape, elements=st.integers(-2, 2).map(float))


def units(num, dim=24, seed=0):
    rows = np.random.default_rng(seed).normal(size=(num, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute(queries, base, k):
    """Sort by (-score, id) in float64; pad with -1 and -inf."""
    ids = np.full((len(queries), k), -1)
    scores = np.full((len(queries), k), -np.inf)
    usable = [row for row in range(len(base)) if np.isfinite(base[row]).all() and base[row].any()]
    for at, query in enumerate(queries):
        if not (np.isfinite(query).all() and query.any()):
            continue
        inner = [float(query.astype(np.float64) @ base[row].astype(np.float64)) for row in usable]
        best = sorted(zip(inner, usable, strict=True), key=lambda pair: (-pair[0], pair[1]))
        for rank, (score, row) in enumerate(best[:k]):
            ids[at, rank], scores[at, rank] = row, score
    return ids, scores


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_nearest_are_those_of_brute_force(monkeypatch, backend):
    monkeypatch.setattr(search, "_PRODUCT_BYTES", 4 * 300 * 7)
    monkeypatch.setattr(products, "_COLUMNS_AT_ONCE", 80)
    monkeypatch.setattr(products, "_GROUPS", 11)
    queries, base = units(20), units(300, seed=1)
    neighbors = top_k(queries, base, k=9, backend=backend)
    ids, scores = brute(queries, base, 9)
    assert np.array_equal(neighbors.ids, ids)
    np.testing.assert_allclose(neighbors.scores, scores, rtol=0, atol=6e-8)


@given(
    whole(6),
    whole(40),
    st.integers(1, 20),
    st.integers(1, 7),
    st.integers(1, 9),
    st.sampled_from(BACKENDS),
)
def test_ties_go_to_the_lowest_id_whatever_k_and_the_tiles_are(
    queries, base, k, tile, columns, backend
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_PRODUCT_BYTES", 4 * 40 * tile)
        patch.setattr(products, "_COLUMNS_AT_ONCE", columns)
        patch.setattr(products, "_GROUPS", 1 + columns // 3)
        neighbors = top_k(queries, base, k=k, backend=backend)
    ids, scores = brute(queries, base, k)
    assert np.array_equal(neighbors.ids, ids)
    assert np.array_equal(neighbors.scores, scores.astype(np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_300_copies_of_one_row_are_listed_in_the_order_of_their_ids(backend):
    base = np.concatenate([units(20), np.repeat(units(1, seed=5), 300, axis=0)])
    neighbors = top_k(base[-1:], base, k=12, backend=backend)
    assert neighbors.ids.tolist() == [list(range(20, 32))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_show_nothing_neither_ask_nor_answer(backend):
    rows = units(8)
    rows[1], rows[4] = 0, np.nan
    neighbors = top_k(rows, rows, k=20, backend=backend)
    for row in (1, 4):
        assert (neighbors.ids[row] == -1).all()
        assert np.isneginf(neighbors.scores[row]).all()
    for row in (0, 2, 3, 5, 6, 7):
        assert sorted(neighbors.ids[row, :6]) == [0, 2, 3, 5, 6, 7]
        assert neighbors.ids[row, 0] == row
        assert (neighbors.ids[row, 6:] == -1).all()


@given(st.integers(1, 12), st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_lists_of_partitions_merge_to_the_list_of_one_search(k, place):
    queries, base = np.round(units(5) * 4), np.round(units(30, seed=1) * 4)  # with ties
    lists = []
    for part in range(4):
        rows = np.flatnonzero(np.array(place) == part)
        neighbors = top_k(queries, base[rows], k=k)
        ids = rows[neighbors.ids] if len(rows) else neighbors.ids
        lists.append(Neighbors(np.where(neighbors.ids < 0, -1, ids), neighbors.scores))
    merged, whole_search = merge_top_k(lists), top_k(queries, base, k=k)
    assert np.array_equal(merged.ids, whole_search.ids)
    assert np.array_equal(merged.scores, whole_search.scores)


def test_k_below_one_is_one_error_line():
    with pytest.raises(UsageError, match="k is 0 - top_k - give 1 or more"):
        top_k(units(2), units(2), k=0)


def test_an_unknown_back_end_is_refused():
    with pytest.raises(UsageError, match="unknown back end `cupy` - top_k"):
        top_k(units(2), units(2), k=1, backend="cupy")


def test_a_gpu_is_used_through_torch():
    assert [backend_for(device) for device in ("cpu", "cuda", "cuda:1")] == [
        "numpy",
        "torch",
        "torch",
    ]
