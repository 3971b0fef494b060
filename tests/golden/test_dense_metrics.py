"""Scores of dense predictions as DINOv3 and the depth toolbox compute them.

The reference of segmentation is float32 in part, hence 1e-6; depth is float64 on both sides.
"""

import numpy as np
import pytest
from PIL import Image

from dinoforge.evaluation.layouts.segmentation import open_ade20k
from dinoforge.evaluation.metrics.depth import (
    DEPTH_METRICS,
    crop_mask,
    depth_metrics,
    mean_depth_metrics,
)
from dinoforge.evaluation.metrics.segmentation import (
    areas_of,
    class_scores,
    confusion_matrix,
    mean_iou,
)
from dinoforge.evaluation.protocols.dense import areas_per_unit

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
    areas = areas_of(matrix)
    iou, accuracy, dice = class_scores(areas)
    close(iou, facts["iou"])
    close(accuracy, facts["class_acc"])
    close(dice, facts["dice"])
    right, labeled, _ = areas.sum(axis=1)
    averages = [mean_iou(areas), np.nanmean(accuracy), right / labeled]
    close(averages, [facts["mIoU"], facts["mAcc"], facts["aAcc"]])


def test_segmentation_with_label_0_ignored(golden_eval, tmp_path):
    facts, arrays = golden_eval("dense")
    facts = facts["segmentation"]
    mask = arrays["seg0_label"]
    pictures = {"images": ("0.jpg", np.zeros((*mask.shape, 3), np.uint8))}
    for folder, (name, pixels) in (pictures | {"annotations": ("0.png", mask)}).items():
        (tmp_path / folder / "validation").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / "validation" / name)
    test = open_ade20k(tmp_path, "validation")
    (areas,) = areas_per_unit(lambda image, size: arrays["seg0_pred"], test)
    iou = class_scores(areas)[0]
    close(iou[: facts["num_classes"]], facts["reduce_zero_label"]["iou"])
    close([mean_iou(areas)], [facts["reduce_zero_label"]["mIoU"]])


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
        means, is_valid = mean_depth_metrics(np.array([[*image.values()] for image in images]))
        close(means, [facts[key][names.get(n, n)] for n in DEPTH_METRICS])
        assert is_valid.all()


def test_garg_crop(golden_eval):
    mask = golden_eval("dense")[1]["garg_mask"].astype(bool)
    np.testing.assert_array_equal(crop_mask("kitti_garg", *mask.shape), mask)
