"""Retrieval and copies against the published implementations, and the demo's descriptors."""

import numpy as np
import pytest

from dinoforge.evaluation.combining import as_known, combine
from dinoforge.evaluation.methods.descriptors import learn_whitening
from dinoforge.evaluation.metrics import copies, ranking

pytestmark = pytest.mark.golden

# The stored values are float64, computed from the same float64 inputs.
EXACT = {"abs": 1e-12, "rel": 0}


@pytest.fixture(scope="module")
def retrieval(golden_eval):
    return golden_eval("retrieval")


def judgments(facts, difficulty):
    for query in facts["gnd"]:
        lists = [np.array(query[name], np.int64) for name in ("easy", "hard", "junk")]
        yield ranking.judge(*lists, difficulty)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_revisited_oxford_and_paris(retrieval, difficulty):
    facts, arrays = retrieval
    truth = facts["results"][difficulty]
    similarities = arrays["query"] @ arrays["database"].T
    ranks = ranking.rank_positives(similarities, judgments(facts, difficulty))
    values = ranking.average_precisions(ranks, rule="trapezoid")
    np.testing.assert_allclose(values, np.array(truth["APs"], float), rtol=0, atol=1e-12)
    assert combine(*as_known(values)) == pytest.approx(truth["mAP"], **EXACT)
    per_query = np.array(truth["P_at_k"], float)
    for column, k in enumerate(facts["ks"]):
        precisions = ranking.precisions_at(ranks, k)
        np.testing.assert_allclose(precisions, per_query[:, column], rtol=0, atol=1e-12)
        mean = combine(*as_known(precisions))
        assert mean == pytest.approx(truth["mP_at_k"][str(k)], **EXACT)


def test_holidays_and_copydays_average_precision(retrieval):
    facts, _ = retrieval
    rows = facts["holidays_ap"]
    positions = tuple(np.array(row["ranks"], np.int64) for row in rows)
    ranks = ranking.Ranks(
        positions, np.array([row["n_positives"] for row in rows]), np.zeros(len(rows))
    )
    values = ranking.average_precisions(ranks, rule="trapezoid", depth=20)
    assert values == pytest.approx([row["ap"] for row in rows], **EXACT)


def test_copy_detection_of_disc(retrieval):
    truth = retrieval[0]["disc"]
    names = sorted({query for query, _, _ in truth["predictions"]})
    true_pairs = {tuple(pair) for pair in truth["gt"]}
    query = np.array([names.index(row[0]) for row in truth["predictions"]])
    is_match = np.array([(row[0], row[1]) in true_pairs for row in truth["predictions"]])
    num_true = np.bincount([names.index(pair[0]) for pair in truth["gt"]], minlength=len(names))
    scores = np.array([row[2] for row in truth["predictions"]])
    pairs = copies.sort_pairs(query, is_match, scores, num_true)
    packed = copies.pack_pairs(pairs)
    assert combine("micro_ap", packed) == pytest.approx(truth["uAP"], **EXACT)
    recall = combine("recall_at_p90", packed)
    assert recall == pytest.approx(truth["recall_at_p90"], **EXACT)
    assert copies.recall_at_precision(pairs, 0.9).threshold == truth["threshold_at_p90"]
    for k in (1, 10):
        retrieved = copies.found_within(pairs, k)
        recall = combine("ratio", np.stack([retrieved, num_true], axis=1))
        assert recall == pytest.approx(truth[f"recall_at_rank{k}"], **EXACT)


def test_recognition_of_met(retrieval):
    facts, arrays = retrieval
    pairs = copies.met_pairs(arrays["met_label"], arrays["met_pred"], arrays["met_conf"])
    truth = [facts["met"][name] for name in ("GAP", "GAP_no_distractor", "accuracy")]
    scores = [
        combine("micro_ap", copies.pack_pairs(pairs)),
        combine("micro_ap", copies.pack_pairs(copies.pairs_of_objects(pairs))),
        combine("ratio", np.stack([copies.found_within(pairs, 1), pairs.num_true], axis=1)),
    ]
    assert scores == pytest.approx(truth, **EXACT)


def test_descriptor_of_class_token_and_gem_and_its_whitening(golden_eval):
    import torch

    from dinoforge.encoders.checkpoint import FEATURES, gem_pool

    _, arrays = golden_eval("demo")
    patches = torch.from_numpy(arrays["features"]).flatten(1, 2)
    rows = FEATURES["cls_gem"]({"cls": arrays["cls"], "gem": gem_pool(patches).numpy()})
    np.testing.assert_allclose(rows, arrays["gem4_descriptor"], rtol=0, atol=1e-5)
    whitening = learn_whitening(arrays["whiten_train"], form="uncentered", learned_on="stored")
    unit = whitening.apply(rows)
    np.testing.assert_allclose(unit @ unit.T, arrays["whitened_gram"], rtol=0, atol=1e-5)
