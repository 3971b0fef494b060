"""The join: every pair above the floor, found by comparing all images with all."""

import numpy as np

from dinoforge.curation.tables import read_pairs


def test_pairs_are_all_those_above_the_floor_without_two_references(inputs, cosines):
    images, references = cosines.joined
    every = np.concatenate([images, references])
    result = {
        (min(i, j), max(i, j))
        for i in images.tolist()
        for j in every.tolist()
        if i != j and cosines.similarity[i, j] > inputs.config.duplicates.floor
    }
    pairs = read_pairs(inputs)
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == sorted(result)
    np.testing.assert_allclose(pairs.similarity, cosines.similarity[pairs.i, pairs.j], atol=1e-5)
    assert len(references) > 0


def test_the_facts_count_what_was_compared(inputs, cosines):
    images, references = (len(ids) for ids in cosines.joined)
    facts = inputs.facts("graph")
    assert (
        sum(part["compared"] for part in facts) == images * (images - 1) // 2 + images * references
    )
    assert sum(part["pairs"] for part in facts) == len(read_pairs(inputs).i)
