"""Label propagation: against the published formula over all pairs of patches, and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoforge.evaluation.methods.propagation import label_map, soft_labels, vanished_objects
from dinoforge.neighbors import propagation
from dinoforge.neighbors.propagation import propagate


def plain(features, first, *, last_frames, window, top_k, temperature=0.1):
    """The published rule: one affinity of all pairs, a window mask of all pairs, a threshold."""
    num, rows, columns, _ = features.shape
    unit = F.normalize(features, dim=-1).flatten(1, 2)
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    inside = (at[:, None] - at).abs().amax(dim=2) <= (window or max(rows, columns))
    labels = [first.flatten(0, 1)]
    for frame in range(1, num):
        context = [0, *range(max(1, frame - last_frames), frame)]
        affinity = torch.cat(
            [(unit[c] @ unit[frame].T / temperature).exp() * inside for c in context]
        )
        kept = affinity.topk(min(top_k, len(affinity)), dim=0).values[-1]
        affinity = affinity * (affinity >= kept)
        affinity = affinity / affinity.sum(dim=0)
        labels.append(affinity.T @ torch.cat([labels[c] for c in context]))
    return torch.stack(labels[1:]).unflatten(1, (rows, columns))


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 4),
    st.integers(0, 5),
    st.integers(1, 7),
    st.booleans(),
)
@settings(max_examples=25)
def test_soft_labels_equal_the_published_formula(rows, columns, last, window, top_k, ties):
    torch.manual_seed(rows * 10 + columns)
    features = torch.randn(5, rows, columns, 4)
    if ties:  # few distinct patches: many sources have the same cosine
        features = features.flatten(0, 2)[torch.randint(3, (5, rows, columns))]
        features = features.sign()  # of norm 2: their products are exact
    first = F.one_hot(torch.randint(3, (rows, columns)), 3).float()
    rule = {"last_frames": last, "window": window, "top_k": top_k}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propagation, "_TILE", 4)
        labels = torch.stack(list(propagate(features, first, **rule)))
    torch.testing.assert_close(labels, plain(features.double(), first.double(), **rule).float())


def test_a_moving_square_is_followed():
    rng = torch.Generator().manual_seed(0)
    scene, object_ = (torch.randn(12, 12, 16, generator=rng) for _ in range(2))
    frames = []
    for step in range(5):
        frame = scene.clone()
        frame[2 + step : 5 + step, 3:6] = object_[:3, :3]
        frames.append(frame)
    truth = torch.zeros(12, 12, dtype=torch.long)
    truth[2:5, 3:6] = 1
    first = F.one_hot(truth, 2).float()
    for step, labels in enumerate(propagate(frames, first, top_k=1), 1):
        assert torch.equal(labels.argmax(dim=-1), truth.roll(step, dims=0))
    # An object that moves out of the window of its source is lost.
    *_, labels = propagate(frames, first, top_k=1, last_frames=0, window=1)
    assert not labels[6:9, 3:6, 1].all()


def test_an_annotation_is_sampled_at_the_centers_of_patches():
    labels = np.zeros((20, 20), np.uint8)
    labels[:10, 10:], labels[19, 0], labels[0, 0] = 2, 3, 255
    first = soft_labels(labels, 2, 2)
    assert first.argmax(dim=-1).tolist() == [[0, 2], [0, 0]]
    assert first.shape == (2, 2, 4)
    assert first.sum(dim=-1).tolist() == [[1, 1], [1, 1]]
    assert vanished_objects(labels, first) == [3]
    assert vanished_objects(labels * 0, soft_labels(labels * 0, 2, 2)) == []


def test_the_label_of_a_pixel_is_the_largest_after_stretching():
    soft = torch.zeros(2, 4, 2)
    soft[..., 0], soft[0, 0, 1] = 1, 0.2
    soft[0, 0, 0] = 0.8
    # 0.2 is the most that label 1 has anywhere: stretched to 1, as label 0 there to 0.
    labels = label_map(soft, 2, 4, 8)
    assert labels.dtype == np.uint8
    assert labels[0, 0] == 1
    assert labels[:, 4:].max() == 0
    assert label_map(soft, 2, 8, 16)[0, :2].tolist() == [1, 1]
    assert label_map(torch.tensor([1.0, 0.0]).expand(2, 2, 2), 2, 3, 3).max() == 0
