"""Depth metrics against the formulas written out, crops, and the rules for invalid pixels."""

import numpy as np
import pytest

from dinoforge.errors import UsageError
from dinoforge.evaluation.metrics.depth import (
    DEPTH_METRICS,
    crop_mask,
    depth_metrics,
    kitti_benchmark_crop,
    mean_depth_metrics,
)


def test_values_equal_the_formulas_pixel_by_pixel():
    rng = np.random.default_rng(0)
    truth, predicted = rng.uniform(1, 9, (2, 7, 9))
    pairs = list(zip(predicted.ravel(), truth.ravel(), strict=True))
    n = len(pairs)
    logs = [np.log(p) - np.log(t) for p, t in pairs]
    expected = {
        "a1": sum(max(p / t, t / p) < 1.25 for p, t in pairs) / n,
        "a2": sum(max(p / t, t / p) < 1.25**2 for p, t in pairs) / n,
        "a3": sum(max(p / t, t / p) < 1.25**3 for p, t in pairs) / n,
        "abs_rel": sum(abs(p - t) / t for p, t in pairs) / n,
        "sq_rel": sum((p - t) ** 2 / t for p, t in pairs) / n,
        "rmse": (sum((p - t) ** 2 for p, t in pairs) / n) ** 0.5,
        "log10": sum(abs(np.log10(p) - np.log10(t)) for p, t in pairs) / n,
        "rmse_log": (sum(d**2 for d in logs) / n) ** 0.5,
        "silog": 100 * np.std(logs),
    }
    result = depth_metrics(predicted, truth, max_depth=10)
    assert tuple(result) == DEPTH_METRICS
    assert result == pytest.approx(expected, abs=1e-12)


def test_a_constant_factor_has_no_scale_invariant_error():
    truth = np.full((4, 4), 3.3)
    result = depth_metrics(truth * 1.1, truth, max_depth=10)
    assert result["silog"] == pytest.approx(0, abs=1e-5)  # the variance may round below 0
    assert result["rmse_log"] == pytest.approx(np.log(1.1), abs=1e-12)


def test_predictions_are_clamped_before_the_logarithm():
    truth = np.array([[1.0, 2.0, 4.0]])
    result = depth_metrics(np.array([[0.0, -5.0, 99.0]]), truth, min_depth=0.5, max_depth=8)
    assert result == depth_metrics(np.array([[0.5, 0.5, 8.0]]), truth, min_depth=0.5, max_depth=8)
    assert np.isfinite(list(result.values())).all()


def test_pixels_at_or_beyond_the_range_do_not_count():
    truth = np.array([[0.0, 1e-3, 2.0, 10.0, 11.0]])
    result = depth_metrics(np.array([[5.0, 5.0, 2.5, 5.0, 5.0]]), truth, max_depth=10)
    assert result["rmse"] == 0.5


def test_images_without_a_valid_pixel_are_counted_not_averaged():
    good, empty = (
        [*depth_metrics(np.full((2, 2), 2.0), np.full((2, 2), depth), max_depth=10).values()]
        for depth in (1.0, 0.0)
    )
    means, is_valid = mean_depth_metrics(np.array([good, empty, good]))
    assert means.tolist() == good
    assert is_valid.tolist() == [True, False, True]
    means, is_valid = mean_depth_metrics(np.array([empty]))
    assert np.isnan(means).all()
    assert is_valid.tolist() == [False]


@pytest.mark.parametrize(
    ("crop", "size", "rows", "columns"),
    [
        ("nyu_eigen", (480, 640), (45, 471), (41, 601)),
        ("nyu_eigen", (240, 320), (23, 236), (21, 301)),
        ("kitti_garg", (375, 1242), (153, 371), (44, 1197)),
        ("kitti_eigen", (375, 1242), (124, 342), (44, 1197)),
        ("none", (3, 5), (0, 3), (0, 5)),
    ],
)
def test_crops_follow_the_size(crop, size, rows, columns):
    mask = crop_mask(crop, *size)
    expected = np.zeros(size, bool)
    expected[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(mask, expected)


def test_kittis_benchmark_crop_is_at_the_bottom():
    assert kitti_benchmark_crop(375, 1242) == (slice(23, 375), slice(13, 1229))
    for size in ((351, 1216), (352, 1215)):
        with pytest.raises(UsageError, match="less than KITTI's crop of 352 x 1216"):
            kitti_benchmark_crop(*size)


def test_a_depth_map_of_another_size_is_refused():
    with pytest.raises(UsageError, match="depth map of 4 x 4 pixels for an image of 4 x 5"):
        depth_metrics(np.ones((4, 5)), np.ones((4, 4)), max_depth=10, where="x.png")
