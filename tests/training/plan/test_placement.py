"""What rank 0 holds by FSDP2 itself, on meta tensors and a fake process group."""

import pytest
import torch.distributed as dist

from dinoforge.config import find_recipe, load_config
from dinoforge.errors import UsageError
from dinoforge.training.config import ModelConfig, TrainingConfig
from dinoforge.training.plan import Placement, plan_of
from dinoforge.training.plan.placement import held_by_rank_0, method_on_meta
from dinoforge.training.plan.plan import released_parameters


def by_network(parameters):
    total = {}
    for name, number in parameters.items():
        network = name.partition(".")[0]
        total[network] = total.get(network, 0) + number
    return total


def counted(config, shards):
    """Rank 0 gets ``ceil(rows / shards)`` rows of every parameter."""
    student = method_on_meta(config).student.named_parameters()
    return by_network({n: -(-len(p) // shards) * p.shape[1:].numel() for n, p in student})


@pytest.mark.parametrize(
    ("changes", "ranks"),
    [
        (["parallel.mode=fsdp"], 4),
        (["parallel.mode=hsdp", "parallel.shard=2"], 8),
        (["parallel.mode=hsdp", "parallel.shard=3"], 6),
        (["parallel.mode=hsdp"], 16),
        (["parallel.mode=fsdp"], 100),  # more ranks than rows of some parameters
    ],
    ids=str,
)
def test_rank_0_holds_what_is_counted(small, changes, ranks):
    config = small("model.registers=4", "model.ffn=swiglu", *changes)
    placement = Placement.of(config, ranks)
    assert by_network(held_by_rank_0(config, placement)) == counted(config, placement.shards)
    assert not dist.is_initialized()


@pytest.mark.parametrize(("mode", "shards"), [("fsdp", 64), ("hsdp", 8)])
def test_the_giant_over_64_ranks_is_sharded_as_counted_and_fits_eight_nodes(mode, shards):
    recipe = find_recipe("training", "vitg14_long")
    config = load_config(TrainingConfig, recipe, ["batch_size=768", f"parallel.mode={mode}"])
    plan = plan_of(config, 64, gpu="80")
    assert (plan.placement.mode, plan.placement.shards) == (mode, shards)
    assert by_network(held_by_rank_0(config, plan.placement)) == counted(config, shards)
    assert plan.parameters_of_rank_0 == sum(counted(config, shards).values())
    assert plan.images == 12
    assert plan.backbone_at_518 == 1_136_480_768
    # Positions of 224 pixels instead of 518: 257 instead of 1,370 tokens of width 1,536.
    assert plan.parameters["backbone"] == 1_136_480_768 - (1370 - 257) * 1536
    assert plan.parameters == counted(config, 1)
    assert plan.fits
    assert plan.largest_images >= 12


def test_without_sharding_the_built_networks_are_counted(small):
    config = small("parallel.mode=ddp")
    student = method_on_meta(config).student
    wanted = sum(p.numel() for p in student.parameters())
    assert sum(held_by_rank_0(config, Placement.of(config, 4)).values()) == wanted
    assert all(p.device.type == "meta" for p in student.parameters())


def test_a_rank_of_a_real_run_is_left_alone(small, tmp_path):
    config = small("parallel.mode=fsdp")
    dist.init_process_group(
        "gloo", rank=0, world_size=1, store=dist.FileStore(str(tmp_path / "store"), 1)
    )
    try:
        with pytest.raises(UsageError, match="this process is a rank of a run"):
            held_by_rank_0(config, Placement.of(config, 2))
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("size", "released"),
    # Oquab et al. 2023: the weights as they can be downloaded, patch 14, grid of 518 pixels.
    [("small", 22_056_576), ("base", 86_580_480), ("large", 304_368_640), ("giant", 1_136_480_768)],
)
def test_released_backbones_have_the_released_numbers_of_parameters(size, released):
    assert released_parameters(ModelConfig(architecture=size).vit(224)) == released
