"""The leakage gate's search: exact, whatever the blocks, and what is left without hits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.encoders.encoder import unit_rows
from dinoforge.evaluation.combining import combine
from dinoforge.evaluation.methods.leakage import find_hits, search_views, units_without_hits


def unit(seed, n, d=16):
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


@given(st.integers(0, 1000), st.lists(st.integers(0, 12), min_size=1, max_size=6))
def test_the_best_match_is_exact_for_any_blocks(seed, sizes):
    tests, pool = unit(seed, 5), unit(seed + 1, sum(sizes))
    views = [tests, unit(seed + 2, 5)]
    cuts = np.cumsum(sizes)[:-1]
    hits = find_hits(views, np.split(pool, cuts), threshold=0.3)
    whole = find_hits(views, [pool], threshold=0.3)
    np.testing.assert_array_equal(hits.best, whole.best)
    np.testing.assert_array_equal(hits.similarity, whole.similarity)
    if sum(sizes):
        cosines = np.stack([view.astype(np.float64) @ pool.T for view in views])
        np.testing.assert_allclose(hits.similarity, cosines.max(axis=(0, 2)), atol=1e-6)
        np.testing.assert_array_equal(hits.best, cosines.max(axis=0).argmax(axis=1))
        np.testing.assert_array_equal(hits.view, cosines.max(axis=2).argmax(axis=0))
    assert hits.num_searched == sum(sizes)


def test_a_similarity_equal_to_the_threshold_is_a_hit():
    tests, pool = np.array([[1.0, 0], [0, 1]], np.float32), np.array([[0.75, 0.5]], np.float32)
    hits = find_hits([tests], [pool], threshold=0.75)
    assert hits.is_hit.tolist() == [True, False]
    assert hits.best.tolist() == [0, 0]


def test_images_without_a_descriptor_are_counted_and_match_nothing():
    pool, tests = unit(0, 6), unit(0, 2)
    pool[[1, 3]] = 0
    tests[0] = 0
    hits = find_hits([tests], iter([pool[:2], pool[2:]]), threshold=-1.0)
    assert (hits.num_searched, hits.num_blank, hits.num_blank_test) == (6, 2, 1)
    assert hits.best[0] == -1
    assert hits.is_hit.tolist() == [False, True]


def test_nothing_to_search_has_no_hits():
    hits = find_hits([unit(0, 3)], [], threshold=0.5)
    assert not hits.is_hit.any()
    assert hits.best.tolist() == [-1, -1, -1]


def test_a_unit_with_one_hit_is_left_out():
    is_hit = np.array([False, True, False, False])
    assert units_without_hits(is_hit).tolist() == [1, 0, 1, 1]
    videos = np.array([0, 0, 2, 2])
    assert units_without_hits(is_hit, videos, 3).tolist() == [0, 1, 1]


def test_a_score_is_combined_without_the_units_of_hits():
    values = np.array([1.0, 1.0, 0.0, 0.0])
    counts = units_without_hits(np.array([True, False, False, False]))
    assert combine("mean", values) == 0.5
    assert combine("mean", values, counts) == pytest.approx(1 / 3)


def test_views_are_the_image_its_mirror_image_and_its_parts():
    image = np.arange(100 * 60 * 3, dtype=np.int64).astype(np.uint8).reshape(100, 60, 3)
    (only,) = search_views(image, parts=False, mirrored=False)
    np.testing.assert_array_equal(only, image)
    views = search_views(image, parts=True, mirrored=True)
    shapes = [view.shape[:2] for view in views]
    assert shapes == [(100, 60)] * 2 + [(94, 56)] * 5 + [(85, 51)] * 5
    np.testing.assert_array_equal(views[1], image[:, ::-1])
    np.testing.assert_array_equal(views[5], image[6:, 4:])
    np.testing.assert_array_equal(views[11], image[8:93, 4:55])
    assert {view.shape for view in search_views(image[:1, :1], parts=True, mirrored=True)} == {
        (1, 1, 3)
    }


def test_a_cropped_mirrored_copy_is_a_hit(shared, tmp_path):
    from dinoforge.encoders.make import make_encoder
    from dinoforge.sources.image_set import open_images

    images = open_images([str(shared / "data/animals4")], cache=tmp_path)
    pictures = [images.decode(row) for row in range(12)]
    encode = make_encoder("pixels").encode
    copies = [p[round(0.05 * len(p)) :, round(0.04 * p.shape[1]) :][:, ::-1] for p in pictures[:6]]
    pool = encode(copies)
    views = np.stack(
        [encode(search_views(picture, parts=True, mirrored=False)) for picture in pictures], axis=1
    )
    hits = find_hits(list(views), [pool[:4], pool[4:]], threshold=0.925)
    assert hits.is_hit.tolist() == [True] * 6 + [False] * 6
    assert hits.best[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert (hits.view[:6] > 0).all()
