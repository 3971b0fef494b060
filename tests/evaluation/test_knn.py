import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.evaluation.knn import find_neighbors, knn_classify, usable_ks, votes
from dinoforge.neighbors.search import Neighbors


def vectors(n, dim, seed):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def plain_prediction(bank, labels, query, k, largest, temperature):
    """The published rule, one query at a time, float64."""
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    cosines = bank @ (query / np.linalg.norm(query))
    order = np.argsort(-cosines, kind="stable")[:largest]
    weights = np.exp(cosines[order] / temperature)
    sums = np.zeros(labels.max() + 1)
    for index, weight in zip(order[:k], weights[:k] / weights.sum(), strict=True):
        sums[labels[index]] += weight
    return sums


@given(st.integers(0, 1000), st.integers(1, 12), st.sampled_from([0.07, 1.0]))
def test_votes_are_those_of_a_plain_loop(seed, k, temperature):
    bank, queries = vectors(30, 5, seed), vectors(4, 5, seed + 1)
    labels = np.random.default_rng(seed).integers(0, 4, 30)
    labels[0] = 3  # the largest class is there
    result = find_neighbors(bank, queries, k=12)
    (got,) = [
        sums for _, sums in votes(result, labels, ks=[k], temperature=temperature, num_classes=4)
    ]
    wide = bank.astype(np.float64)
    truth = [
        plain_prediction(wide, labels, query.astype(np.float64), k, 12, temperature)
        for query in queries
    ]
    np.testing.assert_allclose(got, truth, atol=1e-5)


def test_equal_votes_go_to_the_smaller_class():
    result = Neighbors(np.array([[0, 1]]), np.array([[0.5, 0.5]], np.float32))
    assert knn_classify(result, np.array([4, 2]), ks=[2], temperature=0.07)[2].tolist() == [2]


def test_votes_are_as_wide_as_the_bank_has_classes():
    result = Neighbors(np.array([[0, 1, 2]]), np.array([[0.9, 0.5, 0.4]], np.float32))
    labels = np.array([5_000_000_000, 2**62, 2**62])
    predicted = knn_classify(result, labels, ks=[1, 3], temperature=10.0)
    assert {k: v.tolist() for k, v in predicted.items()} == {1: [5_000_000_000], 3: [2**62]}


def test_equal_similarity_goes_to_the_smaller_index():
    bank = np.repeat(vectors(1, 8, 0), 70, axis=0)
    result = find_neighbors(bank, bank[:2] * 3, k=5)
    assert result.ids.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_scale_does_not_matter():
    bank, queries = vectors(20, 6, 1), vectors(3, 6, 2)
    result = find_neighbors(bank, queries, k=4)
    scaled = find_neighbors(bank * np.float32(8), queries * np.float32(0.25), k=4)
    np.testing.assert_array_equal(result.ids, scaled.ids)


def test_a_query_that_shows_nothing_gets_no_class():
    bank = vectors(10, 4, 3)
    queries = np.stack([np.zeros(4, np.float32), bank[7]])
    result = find_neighbors(bank, queries, k=3)
    predicted = knn_classify(result, np.arange(10), ks=[1, 3], temperature=0.07)
    assert predicted[1].tolist() == [-1, 7]
    assert predicted[3][0] == -1


def test_an_image_that_shows_nothing_is_nobodys_neighbor():
    bank = vectors(6, 4, 4)
    bank[2] = 0
    result = find_neighbors(bank, -bank[:1], k=6)
    assert 2 not in result.ids
    assert result.ids[0, -1] == -1
    predicted = knn_classify(result, np.array([0, 0, 1, 0, 0, 0]), ks=[6], temperature=0.07)
    assert predicted[6].tolist() == [0]


def test_leave_one_out_drops_the_row_itself_and_not_its_duplicates():
    bank = vectors(5, 4, 5)
    bank[3] = bank[1]
    result = find_neighbors(bank, None, k=1)
    assert result.ids[[1, 3], 0].tolist() == [3, 1]


def test_leave_one_out_among_more_duplicates_than_neighbors():
    bank = np.repeat(vectors(1, 4, 6), 6, axis=0)
    result = find_neighbors(bank, None, k=2)
    # Rows 0 to 2 have themselves among the first three; the others lose the third.
    assert result.ids.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]


def test_leave_one_out_equals_a_search_without_the_row():
    bank = vectors(12, 3, 7)
    result = find_neighbors(bank, None, k=4)
    for row in range(12):
        others = np.delete(np.arange(12), row)
        alone = find_neighbors(bank[others], bank[row : row + 1], k=4)
        assert result.ids[row].tolist() == others[alone.ids[0]].tolist()


def test_numbers_of_neighbors_larger_than_the_bank_are_left_out():
    assert usable_ks([200, 10, 100], 100) == [10, 100]
    assert usable_ks([10, 20], 20, leave_one_out=True) == [10]
    assert usable_ks([200, 10], 3) == [3]
    assert usable_ks([10], 1, leave_one_out=True) == usable_ks([10], 0) == [0]


def test_parts_of_the_queries_do_not_show(monkeypatch):
    import dinoforge.evaluation.knn

    bank, queries = vectors(60, 4, 8), vectors(25, 4, 9)
    labels = np.random.default_rng(0).integers(0, 5, 60)
    result = find_neighbors(bank, queries, k=9)
    whole = knn_classify(result, labels, ks=[3, 9], temperature=0.07)
    monkeypatch.setattr(dinoforge.evaluation.knn, "_QUERIES_AT_ONCE", 4)
    parts = knn_classify(result, labels, ks=[3, 9], temperature=0.07)
    for k in (3, 9):
        np.testing.assert_array_equal(whole[k], parts[k])


@pytest.mark.parametrize("k", [1, 10])
def test_scikit_learn_agrees(k):
    from sklearn.neighbors import KNeighborsClassifier

    bank, queries = vectors(200, 6, 10), vectors(50, 6, 11)
    labels = np.random.default_rng(1).integers(0, 3, 200)
    result = find_neighbors(bank, queries, k=k)
    predicted = knn_classify(result, labels, ks=[k], temperature=0.07)[k]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (bank, queries)]
    peer = KNeighborsClassifier(
        n_neighbors=k,
        algorithm="brute",
        metric="cosine",
        weights=lambda distances: np.exp((1 - distances) / 0.07),
    )
    np.testing.assert_array_equal(predicted, peer.fit(unit[0], labels).predict(unit[1]))
