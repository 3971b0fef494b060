"""FSDP2 itself, on meta tensors and a fake process group, holds what the closed forms say."""

import pytest
import torch.distributed as dist

from dinoforge.config import find_recipe, load_config
from dinoforge.errors import UsageError
from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan import Placement, check_sharding, plan_of
from dinoforge.training.plan.parameters import largest_part, student_units
from dinoforge.training.plan.sharding import method_on_meta, sharded_parameters


def counted(config, shards):
    found = {}
    for unit, shapes in student_units(config).items():
        network = unit.partition(".")[0]
        found[network] = found.get(network, 0) + largest_part(shapes, shards)
    return found


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
    assert sharded_parameters(config, placement) == counted(config, placement.shards)
    assert not dist.is_initialized()


@pytest.mark.parametrize(("mode", "shards"), [("fsdp", 64), ("hsdp", 8)])
def test_the_giant_over_64_ranks_is_sharded_as_counted_and_fits_eight_nodes(mode, shards):
    recipe = find_recipe("training", "vitg14_long")
    config = load_config(TrainingConfig, recipe, ["batch_size=768", f"parallel.mode={mode}"])
    plan = plan_of(config, 64, gpu="80")
    assert (plan.placement.mode, plan.placement.shards) == (mode, shards)
    assert sharded_parameters(config, plan.placement) == counted(config, shards)
    assert plan.images == 12
    assert plan.backbone_at_518 == 1_136_480_768
    assert plan.fits
    assert plan.largest_images >= 12


def test_without_sharding_the_built_networks_are_counted(small):
    config = small("parallel.mode=ddp")
    student = method_on_meta(config).student
    wanted = sum(p.numel() for p in student.parameters())
    assert check_sharding(config, Placement.of(config, 4)) == wanted
    assert all(p.device.type == "meta" for p in student.parameters())


def test_a_rank_of_a_real_run_is_left_alone(small, tmp_path):
    config = small("parallel.mode=fsdp")
    dist.init_process_group(
        "gloo", rank=0, world_size=1, store=dist.FileStore(str(tmp_path / "store"), 1)
    )
    try:
        with pytest.raises(UsageError, match="this process is a rank of a run"):
            check_sharding(config, Placement.of(config, 2))
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
