"""The optimizer and its schedules as the recipe wants them, and devices that are not there."""

import pytest
import torch

from dinoforge.errors import UsageError
from dinoforge.training.build import build_method, build_optimizer, choose_device
from dinoforge.training.precision import autocast
from dinoforge.training.schedules import apply_schedules


def rates(config, step):
    """Learning rate and weight decay of every parameter at a step."""
    method = build_method(config)
    optimizer = build_optimizer(config, method)
    apply_schedules(config, optimizer, step)
    names = {id(p): n for n, p in method.student.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_deeper_blocks_learn_faster_and_the_patch_embedding_slowest(tiny):
    config = tiny("optimizer.layerwise_decay=0.5", "model.depth=3", "optimizer.warmup=0")
    result = rates(config, 0)
    base = 0.02 * (4 / 1024) ** 0.5
    wanted = {
        "dino_head.mlp.0.weight": 1,
        "backbone.norm.weight": 1,
        "backbone.blocks.2.mlp.fc1.weight": 0.5,
        "backbone.blocks.1.mlp.fc1.weight": 0.25,
        "backbone.blocks.0.mlp.fc1.weight": 0.125,
        "backbone.pos_embed": 0.0625,
        "backbone.cls_token": 0.0625,
        "backbone.patch_embed.proj.weight": 0.2 * 0.0625,
    }
    for name, share in wanted.items():
        assert result[name][0] == pytest.approx(share * base), name


def test_norms_biases_and_layer_scale_are_not_decayed_tokens_are(tiny):
    result = rates(tiny("model.registers=4"), 0)
    assert result["backbone.blocks.0.mlp.fc1.weight"][1] == pytest.approx(0.04)
    decayed = {name.removeprefix("backbone.") for name, (_, decay) in result.items() if decay}
    assert {"cls_token", "pos_embed", "mask_token", "register_tokens"} <= decayed
    assert "dino_head.last_layer.weight_g" in decayed
    free = {name for name, (_, decay) in result.items() if not decay}
    assert all(n.endswith(".bias") or "norm" in n or "gamma" in n for n in free)


def test_only_prototypes_are_frozen(tiny):
    config = tiny("optimizer.freeze_last_layer=2", "optimizer.warmup=0")
    for step, frozen in ((0, True), (1, True), (2, False)):
        still = {name for name, (lr, _) in rates(config, step).items() if lr == 0}
        expected = {
            f"{head}.last_layer.{part}"
            for head in ("dino_head", "ibot_head")
            for part in ("weight_g", "weight_v")
        }
        assert still == (expected if frozen else set())


def test_every_parameter_of_the_student_is_optimized_once(tiny):
    method = build_method(tiny())
    optimizer = build_optimizer(tiny(), method)
    result = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(result) == sorted(id(p) for p in method.student.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_reported_in_one_line(tiny):
    with pytest.raises(UsageError, match="device `cuda` cannot be used"):
        choose_device(tiny("device=cuda"))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_precision_decides_what_matrix_products_are_computed_in(tiny, precision, dtype):
    with autocast(tiny(f"precision={precision}"), torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
