"""Stored values of video evaluation: J, F and their statistics, label propagation."""

import numpy as np
import pytest
import torch

from dinoforge.evaluation.methods.propagation import label_map
from dinoforge.evaluation.metrics.masks import ObjectScores, boundary_f, jaccard, pool
from dinoforge.neighbors.propagation import propagate

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


@pytest.mark.parametrize("name", ["prop_a", "prop_b", "prop_c"])
def test_label_propagation(video, name):
    facts, arrays = video
    settings = facts["stats"][name]
    first = torch.nn.functional.one_hot(torch.from_numpy(arrays["prop_first_labels"])).float()
    frames = torch.from_numpy(arrays["prop_features"])
    rule = {
        "last_frames": settings["n_last_frames"],
        "window": settings["size_mask_neighborhood"],
        "top_k": settings["topk"],
        "temperature": settings["temperature"],
    }
    soft = list(propagate(frames, first, **rule))
    stacked = torch.stack(soft).permute(0, 3, 1, 2).numpy()
    assert stacked == pytest.approx(arrays[f"{name}_soft"], abs=1e-5)
    labels = np.stack([label_map(frame, settings["patch"], 80, 112) for frame in soft])
    # Pixels where two labels are equal to rounding may go either way.
    assert (labels != arrays[f"{name}_labels"]).mean() <= 0.001
