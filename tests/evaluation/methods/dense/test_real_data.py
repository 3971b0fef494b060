"""Color and position on CamVid and NYU against constants: the baselines of every dense table.

The constants were also measured by independent code on the same data (CamVid mIoU .024 and .169,
NYU RMSE 1.241 and 1.128, majority per position on NYU's 39 classes .018).
"""

import numpy as np
import pytest
import torch

from dinoforge.evaluation.layouts.dense_tars import open_camvid_tars, open_nyu_tars
from dinoforge.evaluation.methods.dense.baselines import (
    ClassesByPosition,
    color_features,
    median_depths,
    position_features,
)
from dinoforge.evaluation.methods.dense.linear_head import (
    HeadTraining,
    PatchFeatures,
    keyed_batches,
)
from dinoforge.evaluation.methods.dense.segmentation_head import predict_labels, train_segmentation
from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.metrics.depth import DEPTH_METRICS, depth_metrics, mean_depth_metrics
from dinoforge.evaluation.metrics.segmentation import areas_of, confusion_matrix, mean_iou

GRID = (24, 32)


def masks_of(data):
    return np.stack([data.read_labels(item) for item in data.items])


def mean_iou_of(predicted, masks, num_classes):
    matrices = [
        confusion_matrix(p, t, num_classes=num_classes)
        for p, t in zip(predicted, masks, strict=True)
    ]
    return mean_iou(areas_of(np.sum(matrices, axis=0)))


def constants(train, test, num_classes):
    counts = ClassesByPosition(test.shape[1:], num_classes)
    for mask in train:
        counts.add(mask)
    maps = np.full(test.shape[1:], counts.majority), counts.majority_per_position()
    return [mean_iou_of([each] * len(test), test, num_classes) for each in maps]


def features_of(data):
    colors = np.stack([color_features(data.read_image(item), GRID) for item in data.items])
    place = np.broadcast_to(position_features(GRID), (len(colors), *GRID, 9))
    return PatchFeatures([colors, place])


def test_camvid(shared):
    data = {s: open_camvid_tars(shared / "data" / "camvid", s) for s in ("train", "test")}
    train, test = (masks_of(data[split]) for split in ("train", "test"))
    majority, per_position = constants(train, test, 11)
    assert majority == pytest.approx(0.024, abs=5e-4)
    assert per_position == pytest.approx(0.169, abs=1e-3)
    settings = HeadTraining(steps=80)
    head, _ = train_segmentation(
        keyed_batches(
            features_of(data["train"]),
            np.stack([resize_nearest(mask, 60, 80) for mask in train]),
            settings,
        ),
        dim=57,
        num_classes=11,
        settings=settings,
    )
    with torch.no_grad():
        logits = head(features_of(data["test"]).rows(np.arange(len(test))))
    predicted = predict_labels(logits, test.shape[1:])
    assert mean_iou_of(predicted, test, 11) > per_position + 0.01


def test_nyu(shared):
    data = {s: open_nyu_tars(shared / "data" / "nyu-depth-v2-sample", s) for s in ("train", "test")}
    train, test = (masks_of(data[split]) for split in ("train", "test"))
    assert constants(train, test, 39) == pytest.approx([0.007, 0.018], abs=1e-3)
    train, test = (
        np.stack([data[s].read_depth(item) for item in data[s].items]) for s in ("train", "test")
    )
    overall, per_position = median_depths(train, min_depth=1e-3, max_depth=10)
    errors = []
    for predicted in (np.full_like(per_position, overall), per_position):
        images = [depth_metrics(predicted, t, max_depth=10, crop="nyu_eigen") for t in test]
        means, _ = mean_depth_metrics(np.array([[*image.values()] for image in images]))
        errors.append(means[DEPTH_METRICS.index("rmse")])
    assert errors == pytest.approx([1.241, 1.128], abs=1e-3)
