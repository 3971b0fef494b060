"""Confusion matrices and scores against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_matrix
from sklearn.metrics import jaccard_score

from dinoforge.errors import UsageError
from dinoforge.evaluation.metrics.segmentation import (
    areas_of,
    class_scores,
    confusion_matrix,
    mean_iou,
    pool,
)
from dinoforge.intervals import bootstrap_indices, resampled_means


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, (5, 12, 16)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    predicted = np.where(
        rng.random(labels.shape) < 0.6, labels % 6, rng.integers(0, 6, (5, 12, 16))
    )
    return predicted, labels


def matrices(masks):
    return [confusion_matrix(p, t, num_classes=6) for p, t in zip(*masks, strict=True)]


def test_matrices_pool_to_the_one_of_scikit_learn(masks):
    predicted, labels = masks
    keep = labels != 255
    expected = sklearn_matrix(labels[keep], predicted[keep], labels=range(6))
    np.testing.assert_array_equal(sum(matrices(masks)), expected)
    areas = areas_of(sum(matrices(masks)))
    by_class = jaccard_score(labels[keep], predicted[keep], labels=range(6), average=None)
    np.testing.assert_allclose(class_scores(areas)[0], by_class, rtol=1e-15)
    assert mean_iou(areas) == pytest.approx(by_class.mean(), abs=1e-15)


def test_a_class_never_labeled_counts_as_0_if_predicted_and_not_at_all_otherwise():
    labels = np.array([[0, 0, 1, 1]])
    areas = areas_of(confusion_matrix(np.array([[0, 0, 1, 2]]), labels, num_classes=4))
    iou, accuracy, _ = class_scores(areas)
    np.testing.assert_array_equal(iou, [1.0, 0.5, 0.0, np.nan])
    np.testing.assert_array_equal(accuracy, [1.0, 0.5, np.nan, np.nan])
    assert mean_iou(areas) == 0.5


def test_without_a_labeled_pixel_there_is_no_score():
    matrix = confusion_matrix(np.zeros((2, 2), int), np.full((2, 2), 255), num_classes=3)
    assert np.isnan(mean_iou(areas_of(matrix)))


def test_units_add_their_images_in_order(masks):
    parts = matrices(masks)
    pooled = pool(parts, ["b", "a", "b", "a", "c"])
    assert list(pooled) == ["b", "a", "c"]
    np.testing.assert_array_equal(pooled["a"], parts[1] + parts[3])


def test_resampled_areas_score_like_the_sum_of_the_drawn_matrices(masks):
    parts = np.stack(matrices(masks))
    areas = areas_of(parts)
    (drawn,) = bootstrap_indices(5, 20, seed=0)
    means = resampled_means(areas.reshape(5, -1), [drawn]).reshape(20, 3, 6)
    expected = [mean_iou(areas_of(parts[rows].sum(axis=0))) for rows in drawn]
    np.testing.assert_allclose(mean_iou(means), expected, rtol=1e-12)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(UsageError) as error:
        confusion_matrix(np.zeros((4, 6)), np.zeros((3, 6)), num_classes=2, where="a/1.png")
    assert str(error.value) == (
        "mask of 3 x 6 pixels for an image of 4 x 6 - a/1.png - "
        "give a mask of the size of its image, or remove both"
    )


@pytest.mark.parametrize("label", [11, 254, -1])
def test_a_label_beyond_the_classes_is_refused(label):
    labels = np.array([[0, 255, label]])
    with pytest.raises(
        UsageError, match=f"label {label} is beyond the list of 11 classes"
    ) as error:
        confusion_matrix(np.zeros((1, 3)), labels, num_classes=11, where="b/2.png")
    assert error.value.faults[0].where == "b/2.png"
