"""The folded head against torch's layers, gathered features, keyed batches, the schedule."""

import numpy as np
import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.evaluation.methods.dense.linear_head import (
    HeadTraining,
    LinearHead,
    PatchFeatures,
    keyed_batches,
    learning_rate,
    train_linear,
)


def test_the_folded_head_equals_batch_norm_and_a_convolution():
    torch.manual_seed(0)
    head = LinearHead(6, 3, seed=1)
    norm, convolution = torch.nn.BatchNorm2d(6), torch.nn.Conv2d(6, 3, 1)
    with torch.no_grad():
        for parameter in (head.norm_weight, head.norm_bias, head.bias):
            parameter.normal_()
        norm.weight.copy_(head.norm_weight)
        norm.bias.copy_(head.norm_bias)
        convolution.weight.copy_(head.weight[..., None, None])
        convolution.bias.copy_(head.bias)
    for _ in range(3):
        x = torch.randn(2, 4, 5, 6) * 3 + 7
        expected = convolution(norm(x.permute(0, 3, 1, 2)))
        logits = head(x)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    expected.square().sum().backward()
    logits.square().sum().backward()
    torch.testing.assert_close(head.norm_weight.grad, norm.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.norm_bias.grad, norm.bias.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        head.weight.grad, convolution.weight.grad[..., 0, 0], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(head.norm_mean, norm.running_mean)
    torch.testing.assert_close(head.norm_var, norm.running_var)
    head.eval()
    norm.eval()
    torch.testing.assert_close(
        head(x), convolution(norm(x.permute(0, 3, 1, 2))), rtol=1e-5, atol=1e-5
    )


def test_weights_start_small_and_depend_on_the_seed_alone():
    weight = LinearHead(500, 20, seed=3).weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(weight, LinearHead(500, 20, seed=3).weight)
    assert not torch.equal(weight, LinearHead(500, 20, seed=4).weight)


def test_layers_and_their_class_tokens_are_concatenated_in_order():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(3, 2, 2, 4)).astype(np.float16) for _ in range(2)]
    tokens = [rng.normal(size=(3, 4)).astype(np.float16) for _ in range(2)]
    features = PatchFeatures(layers, tokens)
    assert (len(features), features.dim, features.grid) == (3, 16, (2, 2))
    x = features.rows(np.array([2, 0])).numpy()
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[0, 1, 0, 4:8], tokens[0][2])
    np.testing.assert_array_equal(x[1, 0, 1, 8:12], layers[1][0, 0, 1])


def test_every_image_is_drawn_once_per_pass_and_batches_do_not_depend_on_history():
    features = PatchFeatures([np.arange(5.0).reshape(5, 1, 1, 1)])
    truths = np.arange(5)[:, None, None]
    batches = keyed_batches(features, truths, HeadTraining(batch_size=2))
    drawn = [batches(step) for step in range(5)]
    values = torch.cat([x for x, _ in drawn]).flatten().tolist()
    assert sorted(values[:5]) == sorted(values[5:]) == [0, 1, 2, 3, 4]
    assert values[:5] != values[5:]
    assert torch.equal(
        torch.cat([truth for _, truth in drawn]).flatten(), torch.tensor(values).long()
    )
    assert torch.equal(batches(3)[0], drawn[3][0])


def test_the_rate_warms_up_then_falls_to_0():
    settings = HeadTraining(steps=100, lr=2.0, warmup=0.05)
    rates = [learning_rate(step, settings) for step in (0, 4, 5, 52, 100)]
    np.testing.assert_allclose(rates, [0.4, 2.0, 2.0, 1.0165, 0.0], atol=1e-3)


def test_a_loss_that_is_not_finite_stops_the_training():
    head = LinearHead(2, 2)
    settings = HeadTraining(steps=2, lr=0.5)

    def batches(step):
        return torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1)

    with pytest.raises(UsageError, match="the loss is nan at step 0"):
        train_linear(head, batches, lambda logits, *_: logits.sum() * float("nan"), settings)
