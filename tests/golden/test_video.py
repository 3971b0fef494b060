"""Stored values of video evaluation: J, F and their statistics."""

import numpy as np
import pytest

from dinoforge.evaluation.metrics.masks import ObjectScores, boundary_f, jaccard, pool

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def video(golden_eval):
    return golden_eval("video")


@pytest.mark.parametrize("suffix", ["", "_void"])
def test_j_and_f_of_every_object_and_frame(video, suffix):
    _, arrays = video
    truth, predicted = arrays["gt"], arrays["pred"]
    void = np.broadcast_to(arrays["void"], truth.shape) if suffix else None
    assert jaccard(truth, predicted, void) == pytest.approx(arrays[f"J{suffix}"], abs=1e-12)
    assert boundary_f(truth, predicted, void) == pytest.approx(arrays[f"F{suffix}"], abs=1e-12)


def test_mean_recall_and_decay_of_objects(video):
    facts, arrays = video
    inner = slice(1, -1)
    scores = [
        ObjectScores(j[inner], f[inner]) for j, f in zip(arrays["J"], arrays["F"], strict=True)
    ]
    for number, expected in enumerate((facts["stats"]["object1"], facts["stats"]["object2"])):
        numbers = pool([scores[number]])
        for metric, values in expected.items():
            assert numbers[metric] == pytest.approx(values["mean"], abs=1e-12)
            assert numbers[f"{metric}_recall"] == values["recall"]
            assert numbers[f"{metric}_decay"] == pytest.approx(values["decay"], abs=1e-12)
    numbers, expected = pool(scores), facts["stats"]["global"]
    assert numbers["J"] == pytest.approx(expected["J_mean"], abs=1e-12)
    assert numbers["F"] == pytest.approx(expected["F_mean"], abs=1e-12)
    assert numbers["J&F"] == pytest.approx(expected["JF_mean"], abs=1e-12)
