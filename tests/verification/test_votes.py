"""Votes find copies, do not depend on how the pictures are cut into ranges, and are capped."""

import numpy as np
import pytest
from optional import optional
from PIL import ImageOps

from dinoforge.verification.features import extract_features, pack_features
from dinoforge.verification.votes import (
    Votes,
    add_to_index,
    choose_training_pictures,
    combine_votes,
    count_votes,
    load_index,
    save_index,
    strongest_descriptors,
    train_index,
    votes_version,
)

optional("faiss", "cpu")


@pytest.fixture(scope="module")
def pool(leaves):
    """Twenty pictures; 20 + k is an edited copy of picture k."""
    images = [leaves(seed) for seed in range(20)]
    images += [images[0].crop((40, 30, 230, 200)), ImageOps.mirror(images[1])]
    images += [images[2].rotate(90, expand=True)]
    return [extract_features(np.asarray(image)) for image in images]


@pytest.fixture(scope="module")
def index(pool):
    return build(pool, [len(pool)])


def build(pool, cuts):
    chosen = choose_training_pictures(len(pool))
    index = train_index(strongest_descriptors(pack_features(pool), chosen)[0], len(pool))
    start = 0
    for stop in cuts:
        add_to_index(index, pack_features(pool[start:stop]), start)
        start = stop
    return index


def candidates(index, pool, step, top=2):
    parts = [
        count_votes(index, pack_features(pool[start : start + step]), start)
        for start in range(0, len(pool), step)
    ]
    return combine_votes(parts, top=top)


def test_copies_get_the_most_votes(index, pool):
    votes = candidates(index, pool, len(pool))
    order = np.argsort(-votes.votes)[:3]
    pairs = zip(votes.pictures[order].tolist(), votes.others[order].tolist(), strict=True)
    assert sorted(pairs) == [(0, 20), (1, 21), (2, 22)]
    assert votes.votes[order].min() > 5 * np.median(votes.votes)


def test_votes_do_not_depend_on_ranges(index, pool, tmp_path):
    whole = candidates(index, pool, len(pool))
    save_index(build(pool, [5, 6, 23]), str(tmp_path / "index"))
    stored = load_index(str(tmp_path / "index"))
    for step in (1, 7):
        again = candidates(stored, pool, step)
        for name in ("pictures", "others", "votes"):
            np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_candidates_are_the_most_voted_of_either_picture():
    votes = Votes(
        np.array([0, 0, 1, 2, 3]), np.array([1, 2, 0, 3, 2]), np.array([5, 1, 2, 4, 9], np.float32)
    )
    pairs = combine_votes([votes], top=1)
    assert pairs.pictures.tolist() == [0, 2]
    assert pairs.others.tolist() == [1, 3]
    assert pairs.votes.tolist() == [5, 9]
    of_two = combine_votes([votes, votes], top=2)
    assert list(zip(of_two.pictures, of_two.others, strict=True)) == [(0, 1), (0, 2), (2, 3)]


def test_pictures_without_keypoints_have_no_votes(index):
    flat = extract_features(np.zeros((64, 64, 3), np.uint8))
    assert len(count_votes(index, pack_features([flat]), 50).votes) == 0
    assert len(combine_votes([]).votes) == 0


def test_training_pictures_are_drawn_by_the_seed():
    assert choose_training_pictures(10).tolist() == list(range(10))
    chosen = choose_training_pictures(100_000)
    assert len(chosen) == len(set(chosen.tolist())) < 10_000
    np.testing.assert_array_equal(chosen, choose_training_pictures(100_000))
    assert (chosen != choose_training_pictures(100_000, rng_seed=1)).any()


def test_the_version_names_the_parameters():
    assert votes_version() == "1 150 6 4 32 64"
