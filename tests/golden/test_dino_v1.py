"""DINO (2021): values of the published code, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from dinoforge.training.heads import ProjectionHead
from dinoforge.training.losses.balance import Center
from dinoforge.training.losses.cross_entropy import dino_loss
from dinoforge.training.methods.dino import Dino
from dinoforge.training.methods.method import Views
from dinoforge.training.parameter_groups import optimizer_groups
from dinoforge.training.schedules import Cosine, scaled_lr
from dinoforge.training.updates import clip_gradients, drop_gradients_of_last_layer, update_teacher

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def stored(golden_eval):
    facts, arrays = golden_eval("dino_v1")
    return facts, {name: torch.from_numpy(array) for name, array in arrays.items()}


def near(result, wanted, limit=1e-9):
    assert (result - wanted).abs().max() <= limit


def test_the_loss_its_gradient_and_the_center_of_four_steps(stored):
    facts, tensors = stored
    settings = facts["loss"]
    table = settings["teacher_temp_schedule"]
    warmup = table.index(table[-1]) + 1
    temperature = Cosine(table[-1], table[-1], len(table), warmup, start=table[0])
    center = Center(settings["K"], momentum=settings["center_momentum"]).double()
    for number, step in enumerate(settings["steps"]):
        assert temperature(step["epoch"]) == pytest.approx(step["teacher_temp"], abs=1e-15)
        near(center.center, tensors[f"s{number}_center_before"])
        targets = center.targets(tensors[f"s{number}_teacher"], step["teacher_temp"])
        scores = tensors[f"s{number}_student"].clone().requires_grad_()
        crops = [2 * settings["B"], settings["n_local"] * settings["B"]]
        loss = sum(dino_loss(targets, *scores.split(crops)))
        loss.backward()
        center.update(tensors[f"s{number}_teacher"])
        assert loss.item() == pytest.approx(step["loss"], abs=1e-9)
        near(scores.grad, tensors[f"s{number}_grad"])
        near(center.center, tensors[f"s{number}_center_after"])


@pytest.mark.parametrize(("name", "unit"), [("head_std", True), ("head_nonorm", False)])
def test_the_head_and_its_gradients(stored, name, unit):
    facts, tensors = stored
    head = head_of(named(tensors, f"{name}."), norm_last_layer=unit)
    out = head(tensors[f"{name}_x"])
    near(out, tensors[f"{name}_y"])
    (out * tensors[f"{name}_gradout"]).sum().backward()
    assert head.last_layer.weight_g.requires_grad == facts[name]["weight_g_trainable"]
    gradients = {n: p.grad for n, p in head.named_parameters() if p.grad is not None}
    wanted = named(tensors, f"{name}_grad.")
    assert gradients.keys() == wanted.keys()
    for key, gradient in wanted.items():
        near(gradients[key], gradient)


def head_of(weights, **settings):
    """Build a head with stored weights, whose shapes are its sizes."""
    hidden, width = weights["mlp.0.weight"].shape
    prototypes, bottleneck = weights["last_layer.weight_v"].shape
    layers = sum(name.startswith("mlp.") for name in weights) // 2
    sizes = {"hidden": hidden, "bottleneck": bottleneck, "prototypes": prototypes}
    head = ProjectionHead(width, layers=layers, **sizes, **settings).double()
    head.load_state_dict(weights)
    return head


def named(tensors, prefix):
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def test_schedules(stored):
    facts, tensors = stored
    epoch = facts["schedules"]["iters_per_epoch"]
    total, warmup = facts["schedules"]["epochs"] * epoch, 2 * epoch
    lr = Cosine(scaled_lr(5e-4, 1024, "linear_256"), 1e-6, total, warmup)
    for schedule, name in (
        (lr, "lr"),
        (Cosine(0.04, 0.4, total), "wd"),
        (Cosine(0.996, 1.0, total), "mom"),
    ):
        result = [schedule(step) for step in range(total)]
        np.testing.assert_allclose(result, tensors[f"sched_{name}"], rtol=1e-12)


def test_every_tensor_is_clipped_by_its_own_norm(stored):
    facts, tensors = stored
    names = [f"clip_in_{number}" for number in range(len(facts["clip"]["norms"]))]
    network = nn.ParameterList([torch.zeros_like(tensors[name]) for name in names])
    for parameter, name in zip(network, names, strict=True):
        parameter.grad = tensors[name].clone()
    norms = clip_gradients({"all": network}, facts["clip"]["max_norm"], by="tensor")
    wanted = np.linalg.norm(facts["clip"]["norms"])
    assert norms["all"].item() == pytest.approx(wanted, abs=1e-9)
    for number, parameter in enumerate(network):
        near(parameter.grad, tensors[f"clip_out_{number}"])


def test_the_moving_average(stored):
    _, tensors = stored
    teacher, student = (
        nn.ParameterList([t.clone() for t in named(tensors, f"ema_{part}_").values()])
        for part in ("teacher", "student")
    )
    momentum = find_momentum(teacher, student, tensors)
    update_teacher(teacher, student, momentum)
    for number, parameter in enumerate(teacher):
        near(parameter, tensors[f"ema_out_{number}"])


def find_momentum(teacher, student, tensors):
    """The file does not have it: solve for it from one number."""
    old, new, out = (t.flatten()[0] for t in (teacher[0], student[0], tensors["ema_out_0"]))
    return ((out - new) / (old - new)).item()


class Vectors(nn.Module):
    """The backbone of the stored run, on vectors instead of images."""

    def __init__(self, width, channels):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, width), nn.GELU())

    def forward_features_list(self, images, _masks, *, rows=None, packed=False):
        assert rows is None
        assert not packed
        outputs = [self.layers(x) for x in images]
        return [{"x_norm_clstoken": x, "x_norm_patchtokens": x[:, None]} for x in outputs]


def test_a_run_of_four_steps(stored):
    facts, tensors = stored
    run = facts["run"]
    head = head_of(named(tensors, "run_init.head."), norm_last_layer=True)
    backbone = Vectors(*tensors["run_init.backbone.0.weight"].shape)
    method = Dino(backbone, head, balance="centering", weights=(1.0, 0.0, 0.0)).double()
    for part in (method.student, method.teacher):
        part.load_state_dict(renamed(tensors, "run_init."))
    rules = {"depth": 1, "layerwise_decay": 1.0, "patch_embed_lr": 1.0}
    optimizer = torch.optim.AdamW(optimizer_groups(method.student, **rules), eps=1e-8)
    empty = torch.zeros(0, dtype=torch.int64)
    for step, crops in enumerate(tensors["run_x"]):
        for group in optimizer.param_groups:
            group["lr"] = run["lr"][step]
            group["weight_decay"] = run["wd"][step] * group["weight_decay_multiplier"]
        whole = crops[:2].flatten(0, 1)
        masks = torch.zeros(len(whole), 1, dtype=torch.bool)
        views = Views(whole, crops[2:].flatten(0, 1), masks, empty, empty)
        (targets,) = method.targets([views], run["teacher_temp"])
        losses = method(views, targets)
        optimizer.zero_grad()
        losses.total.backward()
        clip_gradients(dict(method.student.items()), run["clip"], by="tensor")
        if step < run["freeze_last_layer"]:
            drop_gradients_of_last_layer(optimizer)
        optimizer.step()
        update_teacher(method.teacher, method.student, run["momentum"][step])
        assert losses.total.item() == pytest.approx(run["losses"][step], abs=1e-9)
    for part in ("student", "teacher"):
        result = getattr(method, part).state_dict()
        for name, wanted in renamed(tensors, f"run_{part}.").items():
            near(result[name], wanted)
    near(method.dino_center.center, tensors["run_center"])


def renamed(tensors, prefix):
    names = {"backbone.": "backbone.layers.", "head.": "dino_head."}
    result = {}
    for name, tensor in named(tensors, prefix).items():
        old = next(start for start in names if name.startswith(start))
        result[names[old] + name.removeprefix(old)] = tensor
    return result
