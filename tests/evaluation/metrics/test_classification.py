"""Metrics of classification against torchmetrics, scikit-learn and counts by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.errors import UsageError
from dinoforge.evaluation.metrics.classification import (
    ALEXNET_ERRORS,
    any_match,
    auroc,
    average_precision,
    average_precision_11,
    class_means,
    corruption_errors,
    mean_of_present,
    per_label,
    select_classes,
    top_classes,
)
from dinoforge.packages import import_extra

K = 7


def scores_and_labels(seed, n=90, classes=K):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    scores = generator.normal(size=(n, K))
    scores[np.arange(n), labels] += 1
    return scores, labels


@pytest.fixture(scope="module")
def torchmetrics():
    return import_extra("torchmetrics.functional.classification", extra="dev", where="this test")


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("classes", [K, K - 2])  # the last two may be predicted, but are absent
def test_torchmetrics_agrees(torchmetrics, k, classes):
    scores, labels = scores_and_labels(0, classes=classes)
    named = top_classes(scores, k)
    right = any_match(named, labels[:, None])
    arguments = torch.from_numpy(scores), torch.from_numpy(labels), K
    micro = torchmetrics.multiclass_accuracy(*arguments, top_k=k, average="micro").item()
    assert right.mean() == pytest.approx(micro, abs=1e-6)
    means = class_means(right, labels, num_classes=K, predicted=named[:, 0] if k == 1 else None)
    macro = torchmetrics.multiclass_accuracy(*arguments, top_k=k, average="macro").item()
    assert mean_of_present(means)[0] == pytest.approx(macro, abs=1e-6)


def test_means_of_the_classes_present_equal_the_balanced_accuracy():
    from sklearn.metrics import recall_score

    scores, labels = scores_and_labels(1, classes=K - 2)
    predicted = top_classes(scores, 1)[:, 0]
    mean, num = mean_of_present(class_means(predicted == labels, labels, num_classes=K))
    truth = recall_score(labels, predicted, labels=range(K - 2), average="macro")
    assert (mean, num) == (pytest.approx(truth, abs=1e-12), K - 2)


def test_equal_scores_go_to_the_smaller_class_and_nan_comes_last():
    named = top_classes(np.array([[1.0, 2.0, 2.0, np.nan], [np.nan, 0.0, 0.0, -1.0]]), 4)
    assert named.tolist() == [[1, 2, 0, 3], [1, 2, 3, 0]]
    assert top_classes(np.zeros((2, 3)), 5).shape == (2, 3)
    assert top_classes(np.zeros((0, 3)), 2).shape == (0, 2)


def test_no_class_is_never_right():
    assert any_match(np.array([-1, 1]), np.array([[-1], [1]])).tolist() == [False, True]


def test_classes_are_chosen_before_the_largest_score():
    scores = np.array([[9.0, 1.0, 2.0, 3.0], [9.0, 5.0, 2.0, 3.0]])
    assert top_classes(select_classes(scores, [3, 1]), 1)[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("classes", "text"),
    [([0, 4], "class 4 is beyond the head"), ([2, 0, 2], "class 2 repeats"), ([-1], "class -1")],
)
def test_a_mapping_that_does_not_fit_the_head(classes, text):
    with pytest.raises(UsageError, match=f"{text}.*a head of 4"):
        select_classes(np.zeros((1, 4)), classes)


def test_sets_of_labels_by_hand():
    named = np.array([[3, 1], [2, 0], [5, 4], [1, 0]])
    truths = np.array([[1, 6], [-1, -1], [4, -1], [2, 3]])
    assert any_match(named, truths).tolist() == [True, False, True, False]
    assert not any_match(named[:, 0], truths).any()


def test_alexnet_has_an_mce_of_one():
    variants = np.array([(image, number) for number in range(15) for image in (0, 0, 1)])
    errors = np.array([*ALEXNET_ERRORS.values()])[variants[:, 1]]
    of_images, of_corruptions = corruption_errors(errors, variants)
    assert of_images == pytest.approx([1.0, 1.0])
    assert of_corruptions == pytest.approx(dict.fromkeys(ALEXNET_ERRORS, 1.0))
    fog = variants[:, 1] == [*ALEXNET_ERRORS].index("fog")
    errors[fog] = [0.0, 0.819324, 0.0]
    of_images, of_corruptions = corruption_errors(errors, variants)
    assert of_images == pytest.approx([14.5 / 15, 14 / 15])
    assert of_corruptions["fog"] == pytest.approx(1 / 3)
    assert of_corruptions["snow"] == pytest.approx(1.0)


def plain_11(scores, truth):
    """VOC2007's definition, threshold by threshold."""
    order = np.argsort(-scores, kind="stable")
    values = []
    for tenth in range(11):
        best = 0.0
        for stop in range(1, len(order) + 1):
            hits = truth[order[:stop]].sum()
            if 10 * hits >= tenth * truth.sum():
                best = max(best, hits / stop)
        values.append(best)
    return np.mean(values)


@given(st.integers(0, 10_000), st.integers(1, 25))
def test_average_precision_of_voc_by_its_definition(seed, n):
    generator = np.random.default_rng(seed)
    scores, truth = generator.integers(0, 6, n) / 5, generator.integers(0, 2, n)
    truth[0] = 1
    assert average_precision_11(scores, truth) == pytest.approx(plain_11(scores, truth))


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_scikit_learn_agrees_on_average_precision_and_auroc(seed, n):
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = np.random.default_rng(seed)
    scores, truth = generator.integers(0, 9, n) / 8, generator.integers(0, 2, n)
    truth[:2] = 0, 1
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))


def test_torchmetrics_agrees_on_multi_label_ap(torchmetrics):
    scores, _ = scores_and_labels(2)
    truths = np.random.default_rng(3).integers(0, 2, scores.shape)
    peer = torchmetrics.multilabel_average_precision(
        torch.from_numpy(scores).sigmoid(), torch.from_numpy(truths), K, average=None
    )
    np.testing.assert_allclose(per_label(average_precision, scores, truths), peer, atol=1e-6)


def test_a_label_without_positive_images_is_counted_out():
    values = per_label(average_precision, np.eye(3), np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]]))
    assert np.isnan(values).tolist() == [False, True, False]
    assert mean_of_present(values) == (1.0, 2)
    assert np.isnan(auroc(np.zeros(2), np.ones(2)))
    assert np.isnan(average_precision_11(np.zeros(2), np.zeros(2)))
    mean, num = mean_of_present(np.array([np.nan]))
    assert np.isnan(mean)
    assert num == 0


def test_difficult_images_are_left_out():
    scores, truths = np.array([[0.9], [0.8], [0.1]]), np.array([[0], [1], [0]])
    counted = np.array([[False], [True], [True]])
    assert per_label(average_precision_11, scores, truths, counted).tolist() == [1.0]
