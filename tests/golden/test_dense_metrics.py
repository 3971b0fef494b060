"""Scores of dense predictions as DINOv3 and the depth toolbox compute them.

The reference of segmentation is float32 in part, hence 1e-6; depth is float64 on both sides.
"""

import numpy as np
import pytest

from dinoforge.evaluation.metrics.depth import (
    DEPTH_METRICS,
    crop_mask,
    depth_metrics,
    mean_depth_metrics,
)
from dinoforge.evaluation.metrics.segmentation import (
    confusion_matrix,
    score_segmentation,
    shift_zero_label,
)

pytestmark = pytest.mark.golden


def close(values, reference):
    expected = [np.nan if value is None else value for value in reference]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_segmentation_scores(golden_eval):
    facts, arrays = golden_eval("dense")
    facts = facts["segmentation"]
    matrix = sum(
        confusion_matrix(predicted, labels, num_classes=facts["num_classes"])
        for predicted, labels in zip(arrays["seg_pred"], arrays["seg_label"], strict=True)
    )
    scores = score_segmentation(matrix)
    close(scores.iou, facts["iou"])
    close(scores.accuracy, facts["class_acc"])
    close(scores.dice, facts["dice"])
    averages = [scores.mean_iou, scores.mean_accuracy, scores.pixel_accuracy]
    close(averages, [facts["mIoU"], facts["mAcc"], facts["aAcc"]])


def test_segmentation_with_label_0_ignored(golden_eval):
    facts, arrays = golden_eval("dense")
    facts = facts["segmentation"]
    labels = shift_zero_label(arrays["seg0_label"])
    scores = score_segmentation(
        confusion_matrix(arrays["seg0_pred"], labels, num_classes=facts["num_classes"])
    )
    close(scores.iou, facts["reduce_zero_label"]["iou"])
    close([scores.mean_iou], [facts["reduce_zero_label"]["mIoU"]])


def test_depth_of_each_image_and_their_mean(golden_eval):
    facts, arrays = golden_eval("dense")
    facts = facts["depth"]
    limits = {"min_depth": facts["min_depth"], "max_depth": facts["max_depth"]}
    pairs = list(zip(arrays["depth_pred"], arrays["depth_gt"], strict=True))
    images = [depth_metrics(predicted, truth, **limits) for predicted, truth in pairs]
    names = {"log10": "log_10"}
    for image, reference in zip(images, facts["per_image"], strict=True):
        close(list(image.values()), [reference[names.get(n, n)] for n in DEPTH_METRICS])
    for crop, key in (("none", "mean_over_images"), ("kitti_garg", "garg_crop_mean")):
        images = [depth_metrics(p, t, crop=crop, **limits) for p, t in pairs]
        means, skipped = mean_depth_metrics(images)
        close(list(means.values()), [facts[key][names.get(n, n)] for n in DEPTH_METRICS])
        assert skipped == 0


def test_garg_crop(golden_eval):
    mask = golden_eval("dense")[1]["garg_mask"].astype(bool)
    np.testing.assert_array_equal(crop_mask("kitti_garg", *mask.shape), mask)
