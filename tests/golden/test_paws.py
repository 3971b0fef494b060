"""PAWS: values of the published code, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from dinoforge.neighbors.soft import soft_neighbors
from dinoforge.training.data.support import SupportOrder
from dinoforge.training.losses.paws import mean_entropy_loss, paws_loss, paws_targets, sharpened
from dinoforge.training.optimizers import Sgd
from dinoforge.training.schedules import Cosine

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def stored(golden_eval):
    facts, arrays = golden_eval("paws")
    return facts, {name: torch.from_numpy(array) for name, array in arrays.items()}


def near(result, wanted, limit=1e-8):
    assert result.shape == wanted.shape
    assert (result - wanted).abs().max() <= limit


@pytest.mark.parametrize("name", ["multi", "two", "nomemax"])
def test_predictions_targets_losses_and_gradients(stored, name):
    facts, tensors = stored
    case = facts[name]
    support = case["classes"] * case["per_class"] * case["supervised_views"]
    settings = {
        "classes_S": torch.arange(support) % case["classes"],
        "num_classes": case["classes"],
        "temperature": case["tau"],
        "smoothing": case["smoothing"],
    }
    z = tensors[f"{name}_z"].clone().requires_grad_()
    h = tensors[f"{name}_h"]
    log_probs = soft_neighbors(z[support:], z[:support], **settings)
    # Published labels are float32 (0.925 is off by 1.2e-8), with smoothing no round numbers.
    limit = 1e-7 if case["smoothing"] else 1e-8
    near(log_probs.exp(), tensors[f"{name}_probs"], limit)
    whole = h[support : support + 2 * case["u_batch"]]
    swapped = soft_neighbors(whole, h[:support], **settings)
    targets = paws_targets(swapped, 2 + case["multicrop"], sharpening=case["sharpen_T"])
    near(targets, tensors[f"{name}_targets"], limit)
    assert (targets == 0).sum() == case["target_zeroed"]
    loss = paws_loss(targets, log_probs)
    assert loss.item() == pytest.approx(case["xent"], abs=limit)
    (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
    near(gradient, tensors[f"{name}_grad_xent"], limit)
    total = loss
    if case["me_max"]:
        spread = mean_entropy_loss(sharpened(log_probs, case["sharpen_T"]).mean(dim=0))
        assert spread.item() == pytest.approx(case["memax"], abs=limit)
        total = loss + spread
    (gradient,) = torch.autograd.grad(total, z)
    near(gradient, tensors[f"{name}_grad_total"], limit)


def test_labels_of_groups_with_classes_of_their_own(stored):
    facts, tensors = stored
    case = facts["labels_unique"]
    per_batch, groups = case["classes_per_rank"], case["world"]
    order = SupportOrder(
        by_class=[np.arange(4)] * (per_batch * groups),
        classes_per_batch=per_batch,
        images_per_class=case["imgs_per_class"],
        groups=groups,
        unique=True,
    )
    classes = [next(order.batches(group))[1] for group in range(groups)]
    columns = {c: at for at, c in enumerate(np.concatenate([c[:per_batch] for c in classes]))}
    one_hot = nn.functional.one_hot(torch.tensor([columns[c] for of in classes for c in of]))
    smoothing = case["smoothing"]
    labels = (1 - smoothing) * one_hot + smoothing / (per_batch * groups)
    near(labels, tensors["labels_unique"].double(), 1e-7)


@pytest.mark.parametrize("name", ["sampler_shared", "sampler_unique"])
def test_the_order_of_labeled_images(stored, name):
    case = stored[0][name]
    per_class = case["images_per_class"]
    order = SupportOrder(
        by_class=[np.arange(per_class) + per_class * c for c in range(case["classes"])],
        classes_per_batch=case["classes_per_batch"],
        images_per_class=case["imgs_per_class_in_batch"],
        groups=case["world"],
        unique=case["unique"],
        passes=case["inner_epochs"],
        seed=case["seed"],
    )
    for group in range(case["world"]):
        batches = list(order.batches(group))
        assert [images.tolist() for images, _ in batches] == case[f"rank{group}"]
        assert len(batches) == case[f"len{group}"] == order.passes * order.batches_of_pass
        for images, classes in batches:
            assert (images // per_class == classes).all()


def test_soft_neighbors_of_labeled_images(stored):
    _, tensors = stored
    labels = tensors["snn_labels"]
    classes = tensors["snn_probs"].shape[1]
    result = soft_neighbors(tensors["snn_query"], tensors["snn_support"], labels, classes)
    near(result.exp(), tensors["snn_probs"])


def test_lars_while_the_rate_changes(stored):
    facts, tensors = stored
    case = facts["lars"]
    weight, bias = (nn.Parameter(tensors[f"lars_{name}0"].clone()) for name in "wb")
    optimizer = Sgd(
        [
            {"params": [weight], "weight_decay": case["weight_decay"], "trust": case["trust"]},
            {"params": [bias]},
        ],
        momentum=case["momentum"],
        buffer="steps",
    )
    for step, lr in enumerate(case["lr_per_step"]):
        for group in optimizer.param_groups:
            group["lr"] = lr
        weight.grad, bias.grad = tensors["lars_gw"][step], tensors["lars_gb"][step]
        optimizer.step()
        near(weight.detach(), tensors["lars_w"][step])
    near(bias.detach(), tensors["lars_b"])


def test_the_learning_rate(stored):
    case = stored[0]["lr_schedule"]
    lr = Cosine(
        *(case["ref"], case["final"], case["total"], case["warmup"]),
        start=case["start"],
        inclusive=False,
    )
    result = [lr(step) for step in range(case["total"] + 1)]
    assert result == pytest.approx(case["values"], rel=1e-8)
