"""Candidates of every seed: the nearest survivors by all cosines."""

import numpy as np

from dinoforge.curation.stored.decisions import read_survivors
from dinoforge.curation.stored.seed_sets import searched_sets


def test_candidates_are_the_nearest_survivors_best_first(inputs, cosines):
    seeds, pool = read_survivors(inputs)
    assert set(cosines.role[seeds]) == {"seed"}
    assert set(cosines.role[pool]) == {"pool"}
    ids, scores = (np.load(inputs.file("search", f"{name}.npy")) for name in ("ids", "scores"))
    k = searched_sets(inputs.config.retrieve)[""]
    assert ids.shape == scores.shape == (len(seeds), k)
    similarity = cosines.similarity[np.ix_(seeds, pool)]
    best = -np.sort(-similarity, axis=1)[:, :k]
    np.testing.assert_allclose(scores, best, atol=1e-5)
    np.testing.assert_allclose(cosines.similarity[seeds[:, None], ids], best, atol=1e-5)
