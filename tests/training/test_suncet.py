"""SuNCEt: its two losses against the published matrices, written out; labeled images alone."""

import pytest
import torch
import torch.nn.functional as F

from dinoforge.errors import UsageError
from dinoforge.training.build import build_method
from dinoforge.training.losses.contrastive import contrastive_loss
from dinoforge.training.methods.method import Views

IMAGES, CLASSES, PER_CLASS = 4, 3, 2
SUPPORT = ("support.paths=[x]", f"support.classes={CLASSES}", f"support.images={PER_CLASS}")
RECIPE = ("method=suncet", "precision=float64", "paws.hidden=16", "paws.width=8", *SUPPORT)


def views():
    generator = torch.Generator().manual_seed(0)

    def crops(count, side):
        return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)

    rows = CLASSES * PER_CLASS
    nothing = torch.zeros(2 * IMAGES, 16, dtype=torch.bool)
    return Views(
        crops(2 * IMAGES, 28),
        crops(2 * IMAGES, 14),
        nothing,
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0),
        support=crops(rows, 28),
        support_classes=torch.arange(rows) % CLASSES,
    )


def embedded(method, images):
    (outputs,) = method.student["backbone"].forward_features_list([images], [None])
    return F.normalize(method.student["projection"](outputs["x_norm_clstoken"]), dim=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labeled_images_are_classified_by_the_others(tiny, smoothing):
    method = build_method(
        tiny(
            *RECIPE, "paws.normalized=false", f"paws.smoothing={smoothing}", "paws.temperature=0.2"
        )
    )
    seen = views()
    losses = method(seen, None)
    z_SD = embedded(method, seen.support)
    labels = (
        F.one_hot(seen.support_classes, CLASSES).double() * (1 - smoothing) + smoothing / CLASSES
    )
    weights = torch.exp(z_SD @ z_SD.T / 0.2) * (1 - torch.eye(len(z_SD)))
    probs = weights / weights.sum(dim=1, keepdim=True) @ labels
    wanted = -(labels * probs.log()).sum(dim=1).mean()
    assert losses.terms["supervised"].item() == pytest.approx(wanted.item(), abs=1e-10)


def test_paws_takes_the_loss_of_labeled_images_with_a_weight(tiny):
    plain, weighted, alone = (
        build_method(tiny(*RECIPE, "paws.normalized=false", *changes))
        for changes in (["method=paws"], ["method=paws", "paws.supervised=0.5"], [])
    )
    plain, weighted, alone = (method(views(), None) for method in (plain, weighted, alone))
    supervised = alone.terms["supervised"].item()
    assert weighted.terms["supervised"].item() == pytest.approx(supervised, abs=1e-12)
    assert weighted.total.item() == pytest.approx(plain.total.item() + supervised / 2, abs=1e-12)
    assert "supervised" not in plain.terms


def test_the_contrastive_loss_finds_the_other_view():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2 * IMAGES, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    unit = F.normalize(z, dim=-1)
    weights = torch.exp(unit @ unit.detach().T / 0.1) * (1 - torch.eye(len(z)))
    other = weights[torch.arange(2 * IMAGES), torch.arange(2 * IMAGES).roll(IMAGES)]
    wanted = -(other / weights.sum(dim=1)).log().mean()
    loss = contrastive_loss(z)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-10)
    gradients = [torch.autograd.grad(each, z, retain_graph=True)[0] for each in (loss, wanted)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_weight_0_leaves_unlabeled_images_out(tiny):
    method = build_method(tiny(*RECIPE, "paws.contrastive=0", "paws.prediction=true"))
    seen = []
    backbone = method.student["backbone"]
    patches = backbone.patch_embed
    patches.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    losses = method(views(), None)
    losses.total.backward()
    assert seen == [CLASSES * PER_CLASS]
    assert losses.total.item() == losses.terms["supervised"].item() > 0
    assert losses.terms["contrastive"].item() == 0


def test_a_class_needs_two_views(tiny):
    with pytest.raises(UsageError, match="`support` has one view of each class"):
        tiny(*RECIPE, "support.images=1")
    assert tiny(*RECIPE, "support.images=1", "support.views=2")
    assert tiny(*RECIPE, "support.images=1", "support.groups=2")
    with pytest.raises(UsageError, match="`support` has one view of each class"):
        tiny(*RECIPE, "support.images=1", "support.groups=2", "support.unique_classes=true")
