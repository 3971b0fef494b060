"""Bins, losses with their gradients, and sliding windows of the published dense heads."""

import pytest
import torch

from dinoforge.evaluation.methods.dense.depth_head import (
    DepthBins,
    expected_depth,
    gradient_loss,
    sig_loss,
)
from dinoforge.evaluation.methods.dense.sliding import slide

pytestmark = pytest.mark.golden


def tensors(arrays, *names):
    return [torch.from_numpy(arrays[name].copy()) for name in names]


@pytest.mark.parametrize("normalization", ["linear", "softmax", "sigmoid"])
def test_depth_of_linear_bins(golden_eval, normalization):
    facts, arrays = golden_eval("dense")
    bins = DepthBins(
        min_depth=facts["depth"]["min_depth"],
        max_depth=facts["depth"]["max_depth"],
        normalization=normalization,
    )
    logits, expected = tensors(arrays, "bins_logits", f"bins_linear_{normalization}")
    torch.testing.assert_close(expected_depth(logits, bins), expected[:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalization", ["linear", "softmax", "sigmoid"])
def test_depth_of_logarithmic_bins(golden_eval, normalization):
    facts, arrays = golden_eval("dense")
    bins = DepthBins(
        min_depth=facts["depth"]["min_depth"],
        max_depth=facts["depth"]["max_depth"],
        spacing="log",
        normalization=normalization,
    )
    logits, expected = tensors(arrays, "bins_logits", f"bins_log_{normalization}")
    torch.testing.assert_close(expected_depth(logits, bins), expected[:, 0], rtol=0, atol=1e-6)


def test_sig_loss_and_its_gradient(golden_eval):
    facts, arrays = golden_eval("dense")
    facts = facts["depth"]["losses"]
    predicted, truth, gradient = tensors(arrays, "loss_pred", "loss_target", "sigloss_grad")
    predicted.requires_grad_()
    loss = sig_loss(predicted, truth, max_depth=10)
    loss.backward()
    assert loss.item() == pytest.approx(facts["sigloss"], abs=1e-9)
    torch.testing.assert_close(predicted.grad, gradient, rtol=0, atol=1e-9)
    for call, expected in enumerate(facts["sigloss_warmup_sequence"]):
        warming_up = call < facts["warm_iter"]
        value = sig_loss(predicted, truth, max_depth=10, warming_up=warming_up)
        assert value.item() == pytest.approx(expected, abs=1e-9)


def test_gradient_loss_and_its_gradient(golden_eval):
    facts, arrays = golden_eval("dense")
    predicted, truth, gradient = tensors(arrays, "loss_pred", "loss_target", "gradlog_grad")
    predicted.requires_grad_()
    loss = gradient_loss(predicted, truth, max_depth=10)
    loss.backward()
    assert loss.item() == pytest.approx(facts["depth"]["losses"]["gradient_log_loss"], abs=1e-9)
    torch.testing.assert_close(predicted.grad, gradient, rtol=0, atol=1e-9)


def test_sliding_windows(golden_eval):
    facts, arrays = golden_eval("dense")
    facts = facts["segmentation"]
    image, expected = tensors(arrays, "slide_input", "slide_output")
    seen = []

    def logits_of(window):
        seen.append(list(window.shape[-2:]))
        level = torch.arange(expected.shape[1]).view(1, -1, 1, 1)
        return window.mean(dim=1, keepdim=True) + level * window.amax()

    result = slide(logits_of, image, crop=facts["slide"]["crop"], stride=facts["slide"]["stride"])
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert seen == facts["slide"]["windows"]
