"""Bytes of a rank in memory, as `parallel` shares them, and of what a run leaves on disk."""

import math
from dataclasses import replace

import pytest
import torch

from dinoforge.config import find_recipe, load_config
from dinoforge.training.build import build_method, build_optimizer
from dinoforge.training.config import CheckpointConfig, TrainingConfig
from dinoforge.training.distributed.checkpoint import Checkpoints
from dinoforge.training.export import gather_backbone
from dinoforge.training.plan.placement import Placement, held_by_rank_0
from dinoforge.training.plan.simulation import Simulation
from dinoforge.training.plan.sizes import storage_of_run


def files_and_bytes(folder):
    sizes = [path.stat().st_size for path in folder.iterdir()]
    return len(sizes), sum(sizes)


@pytest.fixture(scope="module")
def batch(small):
    """A micro-batch of 4 images."""
    return Simulation(small(), "cpu").run(4, 20)


def test_sharded_states_shrink_with_the_ranks_and_activations_do_not(small, batch, planned_memory):
    config = small("model.width=128", "batch_size=64", "parallel.mode=fsdp")
    one, eight = (planned_memory(config, batch, ranks) for ranks in (1, 8))
    # Rank 0 holds what has a single row as a whole: of a net this small that is a fifth.
    assert one.student / 8 <= eight.student <= 1.25 * one.student / 8
    assert eight.optimizer == 2 * eight.student
    assert eight.activations == one.activations


def test_blocks_are_gathered_in_half_precision_and_the_rest_in_full(small, planned_memory):
    config = small("precision=bfloat16", "parallel.mode=fsdp", "dino_head.prototypes=8")
    config = replace(config, separate_heads=False)
    units = held_by_rank_0(config, Placement.of(config, 2))
    # Two parts of equal size: what has a single row, as positions have, is gathered twice as large.
    block, root = (2 * units[n] for n in ("backbone.blocks.0", "backbone"))
    copied = 64 * 3 * 49 + 64 * 40 + 40 * 40 + 40 * 24  # patches, then the layers of the head
    result = planned_memory(config, Simulation(config).run(4, 20), 2).weights
    # The block at work, its gradients, these in float32; the next one twice; the root.
    assert result == block * (2 + 2 + 4 + 2 * 2) + root * 4 + copied * 2


def test_ddp_keeps_the_buckets_that_gradients_lie_in(small, batch, planned_memory):
    config = small("parallel.mode=ddp", "batch_size=16")
    single, ddp = (planned_memory(config, batch, ranks) for ranks in (1, 4))
    assert (ddp.states, ddp.weights) == (single.states, single.weights)
    assert ddp.phases["forward"] == single.phases["forward"] + single.gradients


def test_accumulated_gradients_are_there_from_the_second_micro_batch_on(
    small, batch, planned_memory
):
    once, twice = (planned_memory(small(f"parallel.accumulate={n}"), batch) for n in (1, 2))
    more = twice.targets - once.targets + twice.crops - once.crops
    assert twice.phases["forward"] == once.phases["forward"] + once.gradients + more


def test_the_host_holds_the_copy_that_a_checkpoint_is_written_from(
    small, batch, planned_memory, tmp_path, monkeypatch
):
    """As many bytes as are handed to the writing thread, centers and step counts aside."""
    config = small()
    method = build_method(config)
    optimizer = build_optimizer(config, method)
    for parameter in method.student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    checkpoints = Checkpoints(tmp_path, config.checkpoint)
    handed = {}
    monkeypatch.setattr(checkpoints, "_write", lambda _step, state, _before: handed.update(state))
    checkpoints.save(1, method, optimizer)
    checkpoints.finish()
    whole = (*handed.values(), *gather_backbone(method).values())
    result = sum(tensor.numel() * tensor.element_size() for tensor in whole)
    assert planned_memory(config, batch).host == pytest.approx(result, rel=0.01)


@pytest.mark.parametrize(
    ("steps", "policy"),
    [
        (6, {"every": 3, "keep": 3}),
        (7, {"every": 2, "keep": 1}),
        (9, {"every": 2, "keep": 1, "keep_every": 4, "export_every": 4}),
        (5, {"every": 10, "keep": 2}),
        (6, {"every": 1, "keep": 2, "export_every": 3}),
    ],
)
def test_a_real_run_leaves_the_bytes_and_files_planned(tiny, tmp_path, steps, policy):
    from dinoforge.training.loop import train

    changes = [f"checkpoint.{key}={value}" for key, value in policy.items()]
    config = tiny(f"steps={steps}", "separate_heads=true", *changes)
    train(config, tmp_path)
    storage = storage_of_run(config, Placement())
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    assert len(checkpoints) == storage.checkpoints_kept
    for checkpoint in checkpoints:
        assert files_and_bytes(checkpoint) == (
            storage.files_of_checkpoint,
            pytest.approx(storage.checkpoint_bytes, rel=0.01),
        )
    exports = sorted((tmp_path / "export").rglob("*.*"))
    assert len(exports) == storage.exports_kept
    for path in exports:
        # Names and shapes of the tensors stand before them, in a file of any size.
        with path.open("rb") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
        assert path.stat().st_size - header == storage.export_bytes


@pytest.mark.timeout(300)
def test_ranks_write_the_files_and_bytes_planned(small, tmp_path, train_on_ranks):
    """Four real ranks: what all hold is shared out among them, what is sharded comes in pieces."""
    variants = {
        "ddp": ("parallel.mode=ddp",),
        "fsdp": ("parallel.mode=fsdp",),
        "hsdp": ("parallel.mode=hsdp", "parallel.shard=2"),
    }
    train_on_ranks(4, tmp_path, variants)
    for name, how in variants.items():
        config = small(*how)
        placement = Placement.of(config, 4)
        assert placement.mode == name
        storage = storage_of_run(config, placement)
        (checkpoint,) = (tmp_path / name / "checkpoints").iterdir()
        result = files_and_bytes(checkpoint)
        assert result == (4 + 2, pytest.approx(storage.checkpoint_bytes, rel=0.01)), name
        assert storage.files_of_checkpoint == 4 + 2


def test_disk_is_fullest_while_the_last_checkpoint_is_written():
    config = load_config(TrainingConfig, find_recipe("training", "vitl16_fast"))
    storage = storage_of_run(config, Placement())
    written = math.ceil(config.steps / config.checkpoint.every)
    assert storage.checkpoints_written == written
    assert storage.checkpoints_kept == CheckpointConfig().keep
    kept = storage.exports_kept * storage.export_bytes
    assert storage.peak_bytes == 4 * storage.checkpoint_bytes + kept
    assert storage.written_bytes > storage.kept_bytes
