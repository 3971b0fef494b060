"""The exact join: the same edges by every back end, for every cut into tiles, as by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dinoforge.errors import UsageError
from dinoforge.neighbors import join, products
from dinoforge.neighbors.join import join_above
from dinoforge.neighbors.products import exact_lists, exact_scores

BACKENDS = ("numpy", "torch", "faiss")

# Whole numbers multiply without rounding: brute force is exact, ties and zero rows are common.
WHOLE = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 14), st.just(3)), elements=st.integers(-2, 2).map(float)
)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(num, dim=32, spread=0.12, seed=0):
    """Unit rows around a few centers: similarities of all sizes up to 1."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(6, dim))
    return unit(centers[rng.integers(0, 6, num)] + spread * rng.normal(size=(num, dim)))


def brute(a, b, threshold, is_self):
    """Pairs above the threshold in float64: zero rows and rows that are not finite have none."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    good = [np.isfinite(x).all(axis=1) & (x != 0).any(axis=1) for x in (left, right)]
    products = np.nan_to_num(left) @ np.nan_to_num(right).T
    above = (products > threshold) & good[0][:, None] & good[1]
    return set(zip(*np.nonzero(np.triu(above, 1) if is_self else above), strict=True))


def pairs(edges):
    return set(zip(edges.i.tolist(), edges.j.tolist(), strict=True))


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(join, "_TILE_ROWS", 16)
    monkeypatch.setattr(join, "_TILE_COLUMNS", 24)
    monkeypatch.setattr(products, "_FAISS_QUERIES_AT_ONCE", 10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_self", [True, False], ids=["self", "two tables"])
@pytest.mark.parametrize("threshold", [0.95, 0.5, -0.3])
def test_edges_are_those_of_brute_force(small_tiles, backend, is_self, threshold):
    a, b = np.split(clustered(170), [100])
    right = a if is_self else b
    edges = join_above(a, None if is_self else b, threshold=threshold, backend=backend)
    surely = brute(a, right, threshold + 1e-6, is_self)
    perhaps = brute(a, right, threshold - 1e-6, is_self)
    assert len(surely) > 20
    assert surely <= pairs(edges) <= perhaps
    exact = a.astype(np.float64) @ right.T.astype(np.float64)
    np.testing.assert_allclose(edges.similarity, exact[edges.i, edges.j], rtol=0, atol=6e-8)
    assert (edges.similarity > np.float32(threshold)).all()
    assert len(edges) == len(pairs(edges)), "a pair is listed twice"


def test_back_ends_agree_to_the_last_bit_on_pairs_at_the_threshold(small_tiles):
    """Pairs whose cosine is within millionths of 0.9: closer than float32 products can resolve."""
    rng = np.random.default_rng(0)
    base = unit(rng.normal(size=(1, 128)))[0].astype(np.float64)
    rows = [base]
    for _ in range(60):
        other = rng.normal(size=128)
        other -= (other @ base) * base
        cosine = 0.9 + rng.uniform(-2e-7, 2e-7)
        rows.append(cosine * base + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other))
    rows = np.array(rows, np.float32)
    results = [join_above(rows, threshold=0.9, backend=backend) for backend in BACKENDS]
    to_base = [int((edges.i == 0).sum()) for edges in results]
    assert 5 < to_base[0] < 55
    for edges in results[1:]:
        for name in ("i", "j", "similarity"):
            assert np.array_equal(getattr(edges, name), getattr(results[0], name)), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_of_200_near_copies_has_all_its_19_900_edges(backend):
    rng = np.random.default_rng(1)
    copies = unit(rng.normal(size=64) + 0.01 * rng.normal(size=(200, 64)))
    rows = np.concatenate([clustered(150, dim=64, spread=1.0), copies])
    edges = join_above(rows, threshold=0.99, backend=backend)
    assert len(edges) == 200 * 199 // 2
    assert edges.i.min() == 150
    order = np.lexsort((edges.j, edges.i))
    assert np.array_equal(order, np.arange(len(edges)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_show_nothing_have_no_edges_and_are_counted(backend):
    rows = clustered(20)
    rows[3], rows[7], rows[11], rows[15] = 0, np.nan, np.inf, 1e25  # the last: norm overflows
    edges = join_above(rows, threshold=-2.0, backend=backend)
    assert edges.num_excluded == 4
    assert len(edges) == 16 * 15 // 2
    assert not {3, 7, 11, 15} & {*edges.i.tolist(), *edges.j.tolist()}
    assert join_above(rows, rows, threshold=-2.0, backend=backend).num_excluded == 8
    assert np.isnan(rows[7]).all(), "the caller's rows stay"


@given(WHOLE, WHOLE, st.integers(-4, 6), st.integers(1, 5), st.sampled_from(BACKENDS))
def test_whole_numbers_are_joined_exactly_for_every_tile_size(a, b, threshold, tile, backend):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(join, "_TILE_ROWS", tile)
        patch.setattr(join, "_TILE_COLUMNS", 2 * tile - 1)
        patch.setattr(products, "_FAISS_QUERIES_AT_ONCE", tile)
        within = join_above(a, threshold=threshold, backend=backend)
        between = join_above(a, b, threshold=threshold, backend=backend)
    assert pairs(within) == brute(a, a, threshold, is_self=True)
    assert pairs(between) == brute(a, b, threshold, is_self=False)


@given(st.permutations(range(40)))
def test_permuted_rows_give_the_same_edges_under_their_new_names(order):
    rows = clustered(40)
    plain, moved = (join_above(x, threshold=0.8) for x in (rows, rows[order]))
    back = {
        tuple(sorted((order[i], order[j]))): s
        for i, j, s in zip(moved.i, moved.j, moved.similarity, strict=True)
    }
    known = {(i, j): s for i, j, s in zip(plain.i, plain.j, plain.similarity, strict=True)}
    assert back == known


def test_half_precision_rows_are_joined_as_the_numbers_they_hold():
    half = clustered(50).astype(np.float16)
    actual, expected = (join_above(x, threshold=0.9) for x in (half, half.astype(np.float32)))
    assert pairs(actual) == pairs(expected)
    assert np.array_equal(actual.similarity, expected.similarity)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mapped_file_is_joined_without_a_warning(tmp_path, backend):
    np.save(tmp_path / "rows.npy", clustered(30))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert len(join_above(mapped, threshold=0.9, backend=backend)) > 10


def test_an_unknown_back_end_is_reported_with_those_there_are():
    with pytest.raises(UsageError, match=r"unknown back end `annoy` - .*numpy, torch, faiss"):
        join_above(clustered(3), threshold=0.5, backend="annoy")


def test_a_pair_has_one_score_whichever_comes_first_and_however_many_are_asked():
    rows = clustered(60, dim=100)
    i, j = np.triu_indices(60, 1)
    forth, back = exact_scores(rows, rows, i, j), exact_scores(rows, rows, j, i)
    assert np.array_equal(forth, back)
    for at in range(0, 1770, 59):
        alone = exact_scores(rows, rows, i[at : at + 1], j[at : at + 1])
        assert alone[0] == forth[at]


def test_a_list_of_pairs_has_the_scores_of_its_pairs_bit_for_bit():
    rows = clustered(150, dim=77)
    lists = np.random.default_rng(0).integers(0, 150, (150, 140))
    counts = np.random.default_rng(1).integers(0, 141, 150)
    scores = exact_lists(rows, rows, lists, counts)
    i, at = np.nonzero(np.arange(140) < counts[:, None])
    assert np.array_equal(scores[i, at], exact_scores(rows, rows, i, lists[i, at]))
    assert np.isneginf(scores).sum() == scores.size - len(i)
