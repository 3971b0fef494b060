"""Bins, losses by hand and by finite differences, inputs of the published forms, a small fit."""

import numpy as np
import pytest
import torch

from dinoforge.evaluation.methods.dense.depth_head import (
    DepthBins,
    DepthLoss,
    average_with_mirrored,
    expected_depth,
    gradient_loss,
    predict_depth,
    sig_loss,
    train_depth,
)
from dinoforge.evaluation.methods.dense.depth_inputs import depth_input
from dinoforge.evaluation.methods.dense.linear_head import (
    HeadTraining,
    PatchFeatures,
    keyed_batches,
)


def test_bins_span_the_range_linearly_or_in_logarithms():
    linear = DepthBins(max_depth=10, min_depth=2, count=5).depths()
    assert linear.tolist() == [2, 4, 6, 8, 10]
    log = DepthBins(max_depth=8, min_depth=0.5, count=5, spacing="log").depths()
    np.testing.assert_allclose(log, [0.5, 1, 2, 4, 8])


def test_depth_is_the_mean_of_the_bins_under_the_votes():
    bins = DepthBins(max_depth=3, min_depth=1, count=3)
    logits = torch.tensor([-1.0, 0.2, 0.6]).view(1, 3, 1, 1)
    assert expected_depth(logits, bins).item() == pytest.approx(
        (0.1 * 1 + 0.3 * 2 + 0.7 * 3) / 1.1, abs=1e-6
    )


def test_sig_loss_by_its_formula_on_valid_pixels():
    predicted = torch.tensor([[1.0, 2.0, 5.0, 7.0]])
    truth = torch.tensor([[2.0, 2.0, 0.0, 11.0]])
    g = np.log(np.array([1.001, 2.001]) / 2.001)
    expected = np.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2)
    assert sig_loss(predicted, truth, max_depth=10).item() == pytest.approx(expected, abs=1e-6)
    warm = sig_loss(predicted, truth, max_depth=10, warming_up=True).item()
    assert warm == pytest.approx(np.sqrt(0.15) * abs(g.mean()), abs=1e-6)
    assert sig_loss(predicted, torch.zeros_like(truth), max_depth=10).item() == 0


def test_the_gradient_loss_sees_rows_and_columns_of_every_image():
    truth = torch.ones(1, 8, 8)
    wavy = truth * torch.linspace(1, 2, 8)  # along columns
    assert gradient_loss(truth * 2, truth, max_depth=10).item() == 0
    along_columns = gradient_loss(wavy, truth, max_depth=10).item()
    assert along_columns == pytest.approx(
        gradient_loss(wavy.transpose(1, 2), truth, max_depth=10).item(), abs=1e-6
    )
    assert along_columns > 0.1
    # Images are not compared with each other.
    pair = gradient_loss(torch.cat([truth, truth * 3]), torch.cat([truth, truth]), max_depth=10)
    assert pair.item() == 0


def test_gradients_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    truth = torch.rand(2, 4, 4, dtype=torch.float64, generator=generator) * 9 + 0.5
    truth[0, 0] = 0
    bins = DepthBins(max_depth=10, count=6)

    def loss(logits):
        depth = expected_depth(logits, bins)
        limit = {"max_depth": 10.0}
        return sig_loss(depth, truth, **limit) + gradient_loss(depth, truth, **limit)

    assert torch.autograd.gradcheck(loss, (logits,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "count", "depth", "blocks"),
    [
        ("v2", 4, 12, (2, 5, 8, 11)),
        ("v2", 4, 24, (4, 11, 17, 23)),
        ("v2", 4, 40, (9, 19, 29, 39)),
        ("v2", 1, 12, (11,)),
        ("v3", 4, 12, (8, 9, 10, 11)),
        ("v3", 1, 24, (23,)),
        ("v2", 4, 3, (0, 1, 2)),
    ],
)
def test_inputs_of_the_published_heads(form, count, depth, blocks):
    chosen = depth_input(form, count, depth)
    assert chosen.blocks == blocks
    is_v3 = form == "v3"
    assert (chosen.final_norm, chosen.class_token, chosen.batch_norm) == (is_v3, not is_v3, is_v3)


def test_a_head_learns_depth_that_features_show():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, (16, 4, 4)).astype(np.float32)
    levels = np.linspace(1, 9, 12)
    features = PatchFeatures([np.exp(-((depth[..., None] - levels) ** 2))])
    bins = DepthBins(max_depth=10, count=32, scale=1)
    settings = HeadTraining(steps=150, batch_size=8, lr=3e-2)
    head, losses = train_depth(
        keyed_batches(features, depth, settings),
        dim=12,
        bins=bins,
        settings=settings,
        loss=DepthLoss(gradient_weight=0.1),
        batch_norm=True,
    )
    assert losses[-1] < 0.4 * losses[20]
    with torch.no_grad():
        predicted = predict_depth(head(features.rows(np.arange(16))), bins, (4, 4))
    assert np.sqrt(((predicted - depth) ** 2).mean()) < 0.5 * depth.std()


def test_the_flip_test_mirrors_back():
    depth = np.array([[1.0, 3.0]], np.float32)
    np.testing.assert_array_equal(average_with_mirrored(depth, depth), [[2, 2]])
    np.testing.assert_array_equal(average_with_mirrored(depth, depth[:, ::-1]), depth)
