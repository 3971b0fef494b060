"""The method: teacher, heads, balance, subsets of stochastic depth, precision, odd batches."""

from dataclasses import replace

import pytest
import torch

from dinoforge.models.config import VitConfig
from dinoforge.models.layers import BlockRows
from dinoforge.models.vit import build_vit
from dinoforge.neighbors.soft import soft_neighbors
from dinoforge.training.build import build_method
from dinoforge.training.config import CropsConfig, ModelConfig, TrainingConfig
from dinoforge.training.data.masks import MaskConfig, collate_masks, draw_masks
from dinoforge.training.data.views import draw_rows
from dinoforge.training.losses.balance import sinkhorn_knopp
from dinoforge.training.losses.cross_entropy import dino_loss, ibot_loss
from dinoforge.training.losses.koleo import koleo_loss
from dinoforge.training.methods.method import Views

BATCH, SIDE = 4, 4


def make_views(num_local=2, image_prob=0.5):
    generator = torch.Generator().manual_seed(0)
    masks = draw_masks(2 * BATCH, SIDE, SIDE, MaskConfig(image_prob=image_prob), seed=0, step=0)
    return Views(
        torch.randn(2 * BATCH, 3, 28, 28, generator=generator),
        torch.randn(num_local * BATCH, 3, 14, 14, generator=generator),
        torch.from_numpy(masks.masks_BN),
        torch.from_numpy(masks.indices_M),
        torch.from_numpy(masks.weights_M),
    )


def kept_rows(rate=0.4, num_local=2):
    config = TrainingConfig(
        batch_size=BATCH,
        model=ModelConfig(architecture="custom", depth=2, drop_path=rate),
        crops=CropsConfig(num_local=num_local),
    )
    return draw_rows(config, 0, range(BATCH))


def losses_of(method, views, kept=None):
    views = replace(views, rows=kept)
    (targets,) = method.targets([views], 0.05)
    return method(views, targets)


def gradients(method):
    return {n: p.grad for n, p in method.student.named_parameters() if p.grad is not None}


def test_the_teacher_starts_as_a_copy_without_gradients_in_evaluation_mode(tiny):
    method = build_method(tiny("model.drop_path=0.4"))
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert student.keys() == teacher.keys()
    for name, tensor in student.items():
        assert torch.equal(tensor, teacher[name]), name
        assert tensor.data_ptr() != teacher[name].data_ptr(), name
    assert not any(p.requires_grad for p in method.teacher.parameters())
    method.train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())


def test_initial_weights_are_a_function_of_the_seed_alone(tiny):
    first = build_method(tiny())
    torch.manual_seed(5)
    again = build_method(tiny())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    # The heads of a seed are not those of its neighbor, nor of each other.
    other = build_method(tiny("seed=1"))
    heads = [m.student[n] for m in (first, other) for n in ("dino_head", "ibot_head")]
    weights = [head.mlp[0].weight for head in heads]
    for at, weight in enumerate(weights):
        assert not any(torch.equal(weight, later) for later in weights[at + 1 :])


def test_separate_heads_have_their_own_prototypes(tiny):
    method = build_method(tiny("ibot_head.prototypes=12"))
    losses = losses_of(method, make_views())
    losses.total.backward()
    assert method.student["ibot_head"].last_layer.weight_v.shape[0] == 12
    assert {name.split(".")[0] for name in gradients(method)} == {
        "backbone",
        "dino_head",
        "ibot_head",
    }


def test_a_shared_head_gets_the_gradient_of_both_losses(tiny):
    result = []
    for change in ("loss.dino=1", "loss.dino=0"):
        method = build_method(tiny("separate_heads=false", "loss.koleo=0", change))
        assert "ibot_head" not in method.student
        losses_of(method, make_views()).total.backward()
        result.append(gradients(method)["dino_head.last_layer.weight_v"])
    two, ibot_alone = result
    assert ibot_alone.abs().max() > 0
    assert (two - ibot_alone).abs().max() > 0


@pytest.mark.parametrize("balance", ["sinkhorn", "centering"])
def test_targets_are_probabilities_and_only_centering_moves_centers(tiny, balance):
    method = build_method(tiny(f"teacher.balance={balance}"))
    (targets,) = method.targets([make_views()], 0.05)
    sums = targets.cls_BK.sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(2 * BATCH), rtol=0, atol=1e-6)
    moved = [bool(c.center.any()) for c in (method.dino_center, method.ibot_center)]
    assert moved == [balance == "centering"] * 2


def test_sinkhorn_uses_prototypes_more_evenly_than_scores_would(tiny):
    method = build_method(tiny())
    targets = method.targets([make_views()], 0.05)[0].cls_BK
    even = 2 * BATCH / targets.shape[1]
    assert (targets.sum(dim=0) - even).abs().max() < 0.35 * even


def test_a_center_is_seen_by_the_next_step_only(tiny):
    method = build_method(tiny("teacher.balance=centering"))
    first, second = (method.targets([make_views()], 0.05)[0].cls_BK for _ in range(2))
    fresh = build_method(tiny("teacher.balance=centering")).targets([make_views()], 0.05)[0].cls_BK
    assert torch.equal(first, fresh)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("change", "unused"), [("loss.ibot=0", "ibot"), ("loss.koleo=0", "koleo")])
def test_a_term_with_weight_zero_is_left_out(tiny, change, unused):
    losses = losses_of(build_method(tiny(change)), make_views())
    assert losses.terms[unused].item() == 0
    assert torch.isfinite(losses.total)


def test_the_total_is_the_weighted_sum(tiny):
    method = build_method(tiny("loss.dino=0.5", "loss.ibot=2", "loss.koleo=0.3"))
    losses = losses_of(method, make_views())
    wanted = (
        0.5 * (losses.terms["dino_local"] + losses.terms["dino_global"])
        + 2 * losses.terms["ibot"]
        + 0.3 * losses.terms["koleo"]
    )
    torch.testing.assert_close(losses.total, wanted)


@pytest.mark.parametrize("drop_path", [0.0, 0.4])
def test_a_step_without_local_crops(tiny, drop_path):
    method = build_method(tiny(f"model.drop_path={drop_path}"))
    losses = losses_of(method, make_views(num_local=0), kept_rows(num_local=0))
    losses.total.backward()
    assert losses.terms["dino_local"].item() == 0
    assert losses.terms["dino_global"].item() > 0
    assert all(torch.isfinite(g).all() for g in gradients(method).values())


@pytest.mark.parametrize("balance", ["sinkhorn", "centering"])
def test_a_step_without_masked_patches(tiny, balance):
    method = build_method(tiny(f"teacher.balance={balance}"))
    views = make_views(image_prob=0.0)
    assert len(views.mask_indices_M) == 0
    losses = losses_of(method, views)
    losses.total.backward()
    assert losses.terms["ibot"].item() == 0
    assert all(torch.isfinite(g).all() for g in gradients(method).values())
    assert torch.isfinite(method.ibot_center.center).all()


def test_one_image_a_step(tiny):
    method = build_method(tiny())
    masks = collate_masks(
        torch.zeros(2, 16, dtype=torch.bool).numpy() | (torch.eye(2, 16) > 0).numpy()
    )
    views = Views(
        torch.randn(2, 3, 28, 28),
        torch.randn(2, 3, 14, 14),
        torch.from_numpy(masks.masks_BN),
        torch.from_numpy(masks.indices_M),
        torch.from_numpy(masks.weights_M),
    )
    losses = losses_of(method, views)
    losses.total.backward()
    assert losses.terms["koleo"].item() == 0  # no neighbor
    assert torch.isfinite(losses.total)


# Stochastic depth


def test_a_subset_runs_the_branch_and_its_residual_is_scaled():
    """Of 10 samples at a rate of 0.4 six are kept, and count 10 / 6."""
    block = build_vit(VitConfig(width=16, depth=1, heads=2, patch_size=7, image_size=28)).blocks[0]
    block.ls1.gamma.data.fill_(1.0)
    block.ls2.gamma.data.fill_(1.0)
    x = torch.randn(10, 5, 16, generator=torch.Generator().manual_seed(0))
    computed = []
    block.norm1.register_forward_hook(lambda _m, inputs, _o: computed.append(len(inputs[0])))
    block.norm2.register_forward_hook(lambda _m, inputs, _o: computed.append(len(inputs[0])))
    rows = BlockRows([torch.arange(6)], [torch.arange(10).flip(0)[:6]])
    (result,) = block([x], rows)
    assert computed == [6 * 5, 6 * 5]  # tokens: the saved share is real
    wanted = x.clone()
    first = wanted[:6].flatten(0, 1)
    wanted[:6] += 10 / 6 * block._attention_branch(first, [(6, 5)]).unflatten(0, (6, 5))
    last = wanted[4:].flatten(0, 1)
    wanted[4:] = wanted[4:] + 10 / 6 * block._ffn_branch(last, [(6, 5)]).unflatten(0, (6, 5))
    torch.testing.assert_close(result, wanted)


def test_every_branch_and_crop_size_draws_its_own_subset(tiny):
    method = build_method(tiny("model.drop_path=0.4"))
    rows = kept_rows()
    assert [[[len(part) for part in branch] for branch in block[:2]] for block in rows] == [
        [[4, 4], [4, 4]]
    ] * 2  # global and local crops: 4 of 8 each
    subsets = {tuple(part.tolist()) for block in rows for branch in block[:2] for part in branch}
    assert len(subsets) > 4
    losses_of(method, make_views(), rows)


def test_one_sample_is_never_dropped(tiny):
    block = build_vit(VitConfig(width=16, depth=1, heads=2, patch_size=7, image_size=28)).blocks[0]
    x = torch.randn(2, 5, 16)  # one image, two global crops
    model = ModelConfig(architecture="custom", depth=1, drop_path=0.9)
    config = TrainingConfig(batch_size=1, model=model, crops=CropsConfig(num_local=0))
    (rows,) = draw_rows(config, 0, range(1))
    (result,) = block([x, x[:0]], rows)[:1]
    (wanted,) = block([x])
    torch.testing.assert_close(result, wanted)


def test_the_teacher_never_drops(tiny):
    plain, dropped = (build_method(tiny(f"model.drop_path={rate}")) for rate in (0.0, 0.4))
    views = make_views()
    (one,), (other,) = (method.targets([views], 0.05) for method in (plain, dropped))
    assert torch.equal(one.cls_BK, other.cls_BK)
    losses = plain(views, one), dropped(replace(views, rows=kept_rows()), other)
    assert not torch.equal(*(part.terms["dino_global"] for part in losses))


# Precision


def test_under_bfloat16_losses_targets_and_weights_stay_float32(tiny):
    method = build_method(tiny())
    head = method.student["dino_head"]
    inside = {}

    def watch(name, module):
        def note(_module, inputs, out):
            inside[name] = (inputs[0], out)

        module.register_forward_hook(note)

    watch("fc1", method.student["backbone"].blocks[0].mlp.fc1)
    watch("last layer", head.last_layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (targets,) = method.targets([make_views()], 0.05)
        losses = method(make_views(), targets)
    losses.total.backward()
    assert inside["fc1"][1].dtype == torch.bfloat16  # or the test would prove nothing
    for name, value in {"total": losses.total, **losses.terms}.items():
        assert value.dtype == torch.float32, name
    assert targets.cls_BK.dtype == torch.float32
    sums = targets.cls_BK.sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(2 * BATCH), rtol=0, atol=1e-6)
    norms = inside["last layer"][0].norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)
    assert {g.dtype for g in gradients(method).values()} == {torch.float32}
    # The log-softmax of exactly these scores, in float32.
    pair, local = inside["last layer"][1].detach().float().split([2 * BATCH, 2 * BATCH])
    wanted = dino_loss(targets.cls_BK, pair, local)
    assert (losses.terms["dino_local"].item(), losses.terms["dino_global"].item()) == tuple(
        w.item() for w in wanted
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_scores_are_those_of_their_float32_values(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(8, 24, generator=generator).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = sinkhorn_knopp(scores, 0.04)
        losses = [
            *dino_loss(result, scores, scores),
            ibot_loss(result, scores, torch.ones(8), 8),
            koleo_loss(scores),
        ]
    exact = sinkhorn_knopp(scores.float(), 0.04)
    assert torch.equal(result, exact)
    wanted = [
        *dino_loss(exact, scores.float(), scores.float()),
        ibot_loss(exact, scores.float(), torch.ones(8), 8),
        koleo_loss(scores.float()),
    ]
    for loss, truth in zip(losses, wanted, strict=True):
        assert loss.dtype == torch.float32
        assert loss.item() == truth.item()


def test_neighbors_of_half_precision_embeddings_are_those_of_their_float32_values():
    generator = torch.Generator().manual_seed(0)
    rows, support = torch.randn(2, 6, 12, generator=generator).bfloat16()
    classes = torch.arange(6) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = soft_neighbors(rows, support, classes, 3)
    assert torch.equal(result, soft_neighbors(rows.float(), support.float(), classes, 3))


def test_sinkhorn_survives_scores_that_would_overflow_and_prototypes_that_die():
    scores = torch.zeros(4, 300)
    scores[:, 0] = 50.0  # 50 / 0.04 = 1250: exp overflows float64
    result = sinkhorn_knopp(scores, 0.04)
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result.sum(dim=1), torch.ones(4))


@pytest.mark.parametrize("sizes", [(3, 7, 0), (2, 5, 3)])
def test_the_loss_of_dino_v1_is_the_mean_over_pairs_of_views(sizes):
    batch, prototypes, num_local = sizes
    generator = torch.Generator().manual_seed(0)
    shape = (2 + num_local, batch, prototypes)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    targets = teacher[:2].softmax(dim=-1)
    terms = [
        -(targets[q] * (student[v] / 0.1).log_softmax(dim=-1)).sum(dim=-1).mean()
        for q in range(2)
        for v in range(len(student))
        if v != q
    ]
    views = [part.flatten(0, 1) for part in (targets, student[:2], student[2:])]
    result = sum(dino_loss(*views, mean_of_pairs=True))
    torch.testing.assert_close(result, torch.stack(terms).mean(), rtol=1e-12, atol=0)


def test_without_local_crops_dino_v1_divides_by_two_and_dinov2_by_three(tiny):
    recipe = ("loss.ibot=0", "loss.koleo=0", "precision=float64", "crops.num_local=0")
    views = make_views(num_local=0)
    views = replace(views, global_crops=views.global_crops.double())
    views = replace(views, local_crops=views.local_crops.double())
    one, two = (
        losses_of(build_method(tiny(*recipe, f"method={name}")), views).total.item()
        for name in ("dino", "dinov2")
    )
    assert one / two == pytest.approx(3 / 2, rel=1e-9)
