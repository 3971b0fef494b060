"""Training a segmentation head on features with a known answer; windows."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinoforge.evaluation.methods.dense.linear_head import (
    HeadTraining,
    PatchFeatures,
    keyed_batches,
)
from dinoforge.evaluation.methods.dense.segmentation_head import (
    predict_labels,
    segmentation_loss,
    train_segmentation,
)
from dinoforge.evaluation.methods.dense.sliding import multi_scale, padded, slide, windows
from dinoforge.evaluation.methods.dense.upsampling import upsample


@pytest.mark.parametrize("size", [(12, 20), (7, 5), (3, 4), (2, 9)])
def test_upsampling_equals_torch(size):
    maps = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    expected = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(maps, size), expected)


def test_the_loss_leaves_ignored_pixels_out():
    logits = torch.randn(2, 4, 3, 3)
    labels = torch.randint(0, 4, (2, 6, 6), dtype=torch.uint8)
    labels[:, :3] = 255
    upsampled = F.interpolate(logits, size=(6, 6), mode="bilinear")
    expected = F.cross_entropy(upsampled, labels.long(), ignore_index=255)
    torch.testing.assert_close(segmentation_loss(logits, labels), expected)
    assert segmentation_loss(logits, torch.full_like(labels, 255)).item() == 0


def test_a_head_finds_the_classes_of_separable_patches():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (20, 4, 4))
    centers = rng.normal(size=(3, 8))
    features = PatchFeatures([(centers[truth] + 0.1 * rng.normal(size=(20, 4, 4, 8))) * 5 + 3])
    labels = truth.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    settings = HeadTraining(steps=60, batch_size=8, lr=3e-2)
    head, losses = train_segmentation(
        keyed_batches(features, labels, settings), dim=8, num_classes=3, settings=settings
    )
    assert losses[0] == pytest.approx(np.log(3), abs=0.05)
    with torch.no_grad():
        predicted = predict_labels(head(features.rows(np.arange(20))), (4, 4))
    np.testing.assert_array_equal(predicted, truth)


def test_windows_cover_a_side_and_the_last_one_is_shifted_back():
    assert windows(50, 16, 11) == [0, 11, 22, 33, 34]
    assert windows(33, 16, 11) == [0, 11, 17]
    assert windows(16, 16, 11) == windows(9, 16, 11) == [0]
    assert windows(27, 16, 11) == [0, 11]


def test_sliding_over_a_pointwise_function_changes_nothing():
    image = torch.randn(1, 3, 20, 31)

    def logits_of(window):
        return torch.stack([window.sum(1), window.amax(1)], dim=1)

    torch.testing.assert_close(
        slide(logits_of, image, crop=12, stride=7), logits_of(image), rtol=1e-5, atol=1e-5
    )


def test_scales_are_averaged_as_probabilities():
    image = torch.rand(1, 3, 12, 19)
    sizes = []

    def logits_of(view):
        sizes.append(tuple(view.shape[-2:]))
        return torch.stack([view[:, 0], -view[:, 0] * 2], dim=1)

    result = multi_scale(logits_of, image, scales=(0.5, 1.0), multiple=4)
    assert sizes == [(8, 8), (8, 8), (12, 20), (12, 20)]  # from 6 x 9.5 and 12 x 19
    torch.testing.assert_close(result.sum(dim=1), torch.ones(1, 12, 19))
    alone = multi_scale(logits_of, image, scales=(1.0,), flip=False)
    torch.testing.assert_close(alone, logits_of(image).softmax(dim=1))
    # A pointwise function does not see the mirror.
    torch.testing.assert_close(multi_scale(logits_of, image, scales=(1.0,)), alone)


def test_padding_is_added_for_the_network_and_cut_off_again():
    image = torch.randn(1, 3, 10, 21)
    seen = []

    def logits_of(view):
        seen.append(view)
        return view[:, :2]

    torch.testing.assert_close(padded(logits_of, 7)(image), image[:, :2])
    assert seen[0].shape == (1, 3, 14, 21)
    assert seen[0][:, :, :2].abs().sum() == seen[0][:, :, -2:].abs().sum() == 0
    assert padded(logits_of, 4)(image).shape == (1, 2, 10, 21)
    torch.testing.assert_close(seen[1][..., 1:-1, 1:-2], image)
