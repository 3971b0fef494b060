"""J and F of masks: against the published formulas written plainly, and by hand."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dinoforge.errors import UsageError
from dinoforge.evaluation.metrics.masks import (
    ObjectScores,
    boundary_f,
    decay,
    jaccard,
    pool,
    score_sequence,
)
from dinoforge.shards.reading import read_samples


def plain_boundary(mask):
    """The published boundary map: a pixel and its neighbors to the right, below, and both."""
    right, below, diagonal = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], below[:-1], diagonal[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edges = mask ^ right | mask ^ below | mask ^ diagonal
    edges[-1], edges[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    edges[-1, -1] = False
    return edges


def plain_j(truth, predicted, void):
    intersection = np.sum((truth & predicted) & np.logical_not(void))
    union = np.sum((truth | predicted) & np.logical_not(void))
    return intersection / union if union else 1.0


def plain_f(truth, predicted, void, tolerance=0.008, *, dilate=ndimage.binary_dilation):
    reach = int(np.ceil(tolerance * np.linalg.norm(truth.shape)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = y**2 + x**2 <= reach**2
    truth, predicted = plain_boundary(truth & ~void), plain_boundary(predicted & ~void)
    matched = predicted & dilate(truth, disk)
    recalled = truth & dilate(predicted, disk)
    precision = matched.sum() / predicted.sum() if predicted.any() else float(truth.any())
    recall = recalled.sum() / truth.sum() if truth.any() else float(predicted.any())
    if not truth.any() and not predicted.any():
        return 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blobs(rng, rows, columns, share):
    """A random mask of connected regions that may touch the borders."""
    noise = ndimage.gaussian_filter(rng.normal(size=(rows, columns)), min(rows, columns) / 8)
    return noise > np.quantile(noise, 1 - share)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (40, 60), (130, 250)])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("tolerance", [0.008, 0.05])
def test_j_and_f_equal_the_published_formulas(size, share, tolerance):
    rng = np.random.default_rng([*size, int(100 * share)])
    truth, predicted = (
        np.stack([blobs(rng, *size, share) for _ in range(6)]).reshape(2, 3, *size)
        for _ in range(2)
    )
    void = rng.random(truth.shape) < 0.02
    for hidden in (None, void):
        values = boundary_f(truth, predicted, hidden, tolerance=tolerance)
        assert values.shape == (2, 3)
        for at in np.ndindex(2, 3):
            where = np.zeros(size, bool) if hidden is None else hidden[at]
            assert values[at] == plain_f(truth[at], predicted[at], where, tolerance)
            index = jaccard(truth[at], predicted[at], None if hidden is None else where)
            assert index == plain_j(truth[at], predicted[at], where)


def test_scores_of_empty_and_full_masks():
    empty, full = np.zeros((20, 30), bool), np.ones((20, 30), bool)
    dot = empty.copy()
    dot[5, 5] = True
    assert jaccard(empty, empty) == boundary_f(empty, empty) == 1
    assert jaccard(dot, empty) == jaccard(empty, dot) == 0
    assert boundary_f(dot, empty) == boundary_f(empty, dot) == 0
    # A mask that fills the image has no boundary.
    assert jaccard(full, empty) == 0
    assert boundary_f(full, empty) == 1
    assert boundary_f(full, dot) == 0


def test_void_pixels_are_in_neither_mask():
    truth, predicted, void = (np.zeros((4, 4), bool) for _ in range(3))
    truth[:2], predicted[1:3], void[0] = True, True, True
    assert jaccard(truth, predicted) == pytest.approx(4 / 12)
    assert jaccard(truth, predicted, void) == pytest.approx(4 / 8)


def test_nonzero_labels_are_inside():
    labels = np.array([[0, 7], [200, 0]], np.uint8)
    assert jaccard(labels, labels > 0) == 1
    assert boundary_f(labels, labels > 0) == 1


def test_a_boundary_within_reach_counts_whatever_the_rest():
    truth, predicted = np.zeros((2, 100, 100), bool)
    truth[20:60, 20:60], predicted[22:62, 20:60] = True, True  # 2 rows lower
    assert boundary_f(truth, predicted) == 1  # reach ceil(0.008 * 141.4) = 2
    predicted = np.roll(predicted, 3, axis=0)  # 5 rows lower
    assert 0.4 < boundary_f(truth, predicted) < 0.6


def test_decay_is_the_first_quarter_minus_the_last():
    assert decay(np.array([1.0, 1, 1, 0.5, 0.5, 0.5, 0, 0, 0])) == pytest.approx(1.0)
    # The published bins are bytes: with 300 frames they begin again after 255.
    assert decay(np.linspace(1, 0, 300)) == pytest.approx(0.75, abs=0.005)
    assert decay(np.array([0.3])) == 0


def test_each_object_weighs_the_same():
    objects = [
        ObjectScores(np.full(9, 1.0), np.full(9, 0.4)),
        ObjectScores(np.full(3, 0.2), np.full(3, 0.6)),
        ObjectScores(np.full(3, 0.3), np.full(3, 0.8)),
    ]
    numbers = pool(objects)
    assert numbers["J"] == pytest.approx(0.5)
    assert numbers["F"] == pytest.approx(0.6)
    assert numbers["J&F"] == pytest.approx(0.55)
    assert numbers["J_recall"] == pytest.approx(1 / 3)
    assert numbers["F_recall"] == pytest.approx(2 / 3)
    assert numbers["J_decay"] == numbers["F_decay"] == 0
    assert all(np.isnan(value) for value in pool([]).values())


def test_the_first_frame_names_the_objects_and_neither_end_counts():
    truth = np.zeros((5, 40, 40), np.uint8)
    truth[:, 5:15, 5:15], truth[:, 20:35, 20:35] = 1, 2
    truth[3, 0:3, 0:3] = 3  # appears later: no object
    truth[:, 38:] = 255  # not annotated: background
    predicted = np.where(truth == 255, 0, truth)
    predicted[[0, -1]] = 0  # neither counts
    first, second = score_sequence(truth, predicted)
    assert first.j.tolist() == first.f.tolist() == second.j.tolist() == [1, 1, 1]
    predicted[2][predicted[2] == 1] = 2
    first, second = score_sequence(truth, predicted)
    assert first.j.tolist() == [1, 0, 1]
    assert second.j.tolist() == pytest.approx([1, 225 / 325, 1])


def test_masks_of_another_size_and_short_sequences_are_named():
    masks = np.ones((4, 6, 6), np.uint8)
    with pytest.raises(UsageError, match=r"masks of 4 x 6 x 5 .* true of 4 x 6 x 6 - dog - "):
        score_sequence(masks, masks[..., 1:], name="dog")
    with pytest.raises(
        UsageError, match=r"2 frames, of which .* - dog - give sequences of at least"
    ):
        score_sequence(masks[:2], masks[:2], name="dog")


def test_predictions_of_real_frames_score_as_the_published_formulas(shared):
    frames = read_samples(shared / "data/davis2016-val-sample/davis-bmx-trees-000000.tar")
    masks = np.stack(
        [np.array(Image.open(io.BytesIO(parts["png"]))) > 0 for _, parts in list(frames)[:40:8]]
    )
    void = np.zeros_like(masks[0])
    values = boundary_f(masks[1:], masks[:-1])
    plain = [plain_f(a, b, void) for a, b in zip(masks[1:], masks, strict=False)]
    assert values.tolist() == plain
