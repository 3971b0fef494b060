"""Weighted k-NN of the published code: neighbors, votes, accuracies.

Rows are unit rows in float32: a cosine is right to 2e-7. Votes are held to the reference's
float32 tolerance, 5e-6.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dinoforge.evaluation.knn import find_neighbors, knn_classify, votes

pytestmark = pytest.mark.golden

KEPT = Path(__file__).parent / "data"
KS = (1, 10, 20, 50)


@pytest.fixture(scope="module")
def golden():
    return json.loads((KEPT / "knn.json").read_text()), load_file(KEPT / "knn.safetensors")


@pytest.fixture(scope="module")
def result(golden):
    _, arrays = golden
    return find_neighbors(arrays["train_features"], arrays["query_features"], k=max(KS))


def test_neighbors_in_order(golden, result):
    _, arrays = golden
    np.testing.assert_allclose(result.scores, arrays["topk_similarities"], rtol=0, atol=2e-7)
    np.testing.assert_array_equal(arrays["train_labels"][result.ids], arrays["topk_labels"])


def test_votes_of_every_k(golden, result):
    facts, arrays = golden
    by_k = votes(
        result,
        arrays["train_labels"],
        ks=KS,
        temperature=facts["temperature"],
        num_classes=facts["num_classes"],
    )
    checked = []
    for k, sums in by_k:
        np.testing.assert_allclose(sums, arrays[f"probs_k{k}"], rtol=0, atol=5e-6)
        checked.append(k)
    assert checked == list(KS)


def test_accuracies_are_exact(golden, result):
    facts, arrays = golden
    predicted = knn_classify(
        result, arrays["train_labels"], ks=KS, temperature=facts["temperature"]
    )
    for k in KS:
        right = (predicted[k] == arrays["query_labels"]).mean()
        assert right == pytest.approx(facts["accuracy"][str(k)]["top1"], abs=1e-12)
