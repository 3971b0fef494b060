import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dinoforge.evaluation.nearest
from dinoforge.encoders.encoder import unit_rows
from dinoforge.evaluation.nearest import nearest
from dinoforge.neighbors import top_k


def rows(n, dim, seed, *, coarse=False):
    """Unit rows; coarse ones repeat, so that there are many ties."""
    generator = np.random.default_rng(seed)
    raw = generator.integers(-1, 2, (n, dim)) if coarse else generator.normal(size=(n, dim))
    return unit_rows(raw)


@given(st.integers(0, 10_000), st.integers(1, 20), st.booleans())
def test_results_are_those_of_the_reference_search(seed, k, coarse):
    base, queries = rows(150, 4, seed, coarse=coarse), rows(9, 4, seed + 1, coarse=coarse)
    found, truth = nearest(queries, base, k=k), top_k(queries, base, k=k)
    np.testing.assert_array_equal(found.ids, truth.ids)
    np.testing.assert_array_equal(found.scores, truth.scores)


def test_more_ties_than_candidates_are_still_decided_by_index():
    base = np.repeat(rows(2, 8, 0), 300, axis=0)
    found = nearest(base[:1], base, k=10)
    assert found.ids.tolist() == [list(range(10))]


def test_tiles_do_not_show(monkeypatch):
    base, queries = rows(400, 6, 1), rows(30, 6, 2)
    whole = nearest(queries, base, k=7)
    monkeypatch.setattr(dinoforge.evaluation.nearest, "_PRODUCT_MIB", 0)
    one_by_one = nearest(queries, base, k=7)
    np.testing.assert_array_equal(whole.ids, one_by_one.ids)
    np.testing.assert_array_equal(whole.scores, one_by_one.scores)


@pytest.mark.parametrize("n", [0, 3])
def test_lists_of_a_small_base_are_padded(n):
    found = nearest(rows(2, 4, 3), rows(n, 4, 4), k=5)
    assert (found.ids[:, n:] == -1).all()
    assert np.isneginf(found.scores[:, n:]).all()
    assert np.sort(found.ids[:, :n], axis=1).tolist() == [list(range(n))] * 2
