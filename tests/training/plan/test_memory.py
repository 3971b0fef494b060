"""Bytes of a simulated step against what autograd saves and torch's allocator hands out."""

from dataclasses import replace

import pytest
import torch

from dinoforge.models.attention import attention_as_on_gpus
from dinoforge.training.build import build_method, build_optimizer
from dinoforge.training.distributed.checkpoint import Checkpoints
from dinoforge.training.export import gather_backbone
from dinoforge.training.plan.memory import memory_of_rank
from dinoforge.training.plan.placement import Placement, held_by_rank_0, student_shapes
from dinoforge.training.plan.simulation import Simulation

# What a simulated step has beside saved tensors: losses, centers.
SAVED_TOLERANCE = 0.003


def planned_memory(config, images, masked=None, device="cpu", ranks=1):
    placement = Placement.of(config, ranks)
    simulation = Simulation(config, device)
    batch = simulation.estimate(images) if masked is None else simulation.run(images, masked)
    held = held_by_rank_0(config, placement)
    return memory_of_rank(config, placement, batch, held, student_shapes(config))


def planned_saved(config, masked, device="cpu"):
    batch = Simulation(config, device).run(config.batch_size, masked)
    return sum(batch.activations.values())


def saved_by_autograd(measuring, config):
    """Bytes that one micro-batch keeps, and its masked patches."""
    step = measuring.Step(config)
    parts = step.views(0, *measuring.noise(config))
    return measuring.saved_bytes(step, parts[0]), measuring.masked_patches(parts)


def most_in_a_step(measuring, config):
    """Most bytes of two steps, and the masked patches of the fuller one's micro-batch."""
    step = measuring.Step(config)
    crops = measuring.noise(config)
    masked = max(
        measuring.masked_patches([part]) for n in range(2) for part in step.views(n, *crops)
    )
    return measuring.peak_bytes(step, *crops), masked


def test_autograd_saves_the_bytes_planned(measuring, variant):
    saved, masked = saved_by_autograd(measuring, variant)
    assert planned_saved(variant, masked) == pytest.approx(saved.activations, rel=SAVED_TOLERANCE)
    copies = planned_memory(variant, 4).weights
    assert copies == saved.weight_copies


@pytest.mark.parametrize("change", ["model.drop_path=0", "model.drop_path=0.4"])
def test_attention_in_bfloat16_keeps_what_it_would_on_a_gpu(measuring, small, change):
    """Flash attention of CPUs and of GPUs saves the same: operands, result, log of the sums."""
    config = small("precision=bfloat16", change)
    with attention_as_on_gpus():
        saved, masked = saved_by_autograd(measuring, config)
    planned = planned_saved(config, masked, "cuda")
    assert planned == pytest.approx(saved.activations, rel=SAVED_TOLERANCE)
    assert planned < 0.95 * planned_saved(config, masked)


@pytest.mark.parametrize("change", ["model.drop_path=0", "model.drop_path=0.4"])
def test_packed_crops_keep_one_more_result_of_attention_a_token(measuring, small, change):
    config = small("model.packing=packed", change)
    saved, masked = saved_by_autograd(measuring, config)
    planned = planned_saved(config, masked)
    assert planned == pytest.approx(saved.activations, rel=SAVED_TOLERANCE)
    assert planned > 1.02 * planned_saved(small(change), masked)


def test_the_most_bytes_of_a_step_are_those_planned(measuring, variant):
    found, masked = most_in_a_step(measuring, variant)
    memory = planned_memory(variant, 4, masked)
    assert memory.peak == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("change", ["separate_heads=true", "separate_heads=false"])
def test_targets_of_all_micro_batches_are_kept_until_the_step_ends(measuring, small, change):
    config = small("batch_size=16", "parallel.accumulate=4", change)
    found, masked = most_in_a_step(measuring, config)
    memory = planned_memory(config, 4, masked)
    # Micro-batches mask different numbers of patches, and all are planned like the fullest.
    assert memory.peak == pytest.approx(found, rel=0.035)
    whole = planned_memory(small(change), 4, masked)
    assert memory.targets == 4 * whole.targets
    assert memory.activations == whole.activations


def test_checkpointed_blocks_keep_their_inputs_alone(measuring, small):
    sizes = ("crops.global_size=112", "crops.local_size=56", "batch_size=8")
    config = small(*sizes, "parallel.activation_checkpointing=blocks")
    saved, masked = saved_by_autograd(measuring, config)
    # Checkpointing holds the inputs itself, not among the saved tensors: 16 and 24 crops of 257
    # and 65 tokens.
    inputs = 3 * (16 * 257 + 24 * 65) * 64 * 4
    planned = planned_saved(config, masked) - inputs
    assert planned == pytest.approx(saved.activations, rel=SAVED_TOLERANCE)
    found, masked = most_in_a_step(measuring, config)
    memory = planned_memory(config, 8, masked)
    assert memory.peak == pytest.approx(found, rel=0.03)
    whole = planned_memory(small(*sizes), 8, masked)
    assert memory.peak < 0.8 * whole.peak


def test_states_are_those_of_the_built_objects(measuring, variant):
    step = measuring.Step(variant)
    step(0, *measuring.noise(variant))
    memory = planned_memory(variant, 4)

    def size(tensors):
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    student = list(step.method.student.parameters())
    assert memory.student == size(student)
    assert memory.teacher == size(step.method.teacher.parameters())
    # Without iBOT its head gets no gradient: room for it is planned all the same.
    with_gradient = [p for p in student if p.grad is not None]
    gradients = size(p.grad for p in with_gradient)
    states = [step.optimizer.state[p] for p in with_gradient]
    moments = size(state[name] for state in states for name in ("exp_avg", "exp_avg_sq"))
    assert moments == 2 * gradients
    unused = size(student) - gradients
    assert memory.gradients == gradients + unused
    assert memory.optimizer == moments + 2 * unused
    assert bool(unused) == (variant.loss.ibot == 0)


def test_sharded_states_shrink_with_the_ranks_and_activations_do_not(small):
    config = small("model.width=128", "batch_size=64", "parallel.mode=fsdp")
    one, eight = (planned_memory(config, 4, ranks=ranks) for ranks in (1, 8))
    # Rank 0 holds what has a single row as a whole: of a net this small that is a fifth.
    assert one.student / 8 <= eight.student <= 1.25 * one.student / 8
    assert eight.optimizer == 2 * eight.student
    assert eight.activations == one.activations


def test_blocks_are_gathered_in_half_precision_and_the_rest_in_full(small):
    config = small("precision=bfloat16", "parallel.mode=fsdp", "dino_head.prototypes=8")
    config = replace(config, separate_heads=False)
    units = held_by_rank_0(config, Placement.of(config, 2))
    # Two parts of equal size: what has a single row, as positions have, is gathered twice as large.
    block, root = (2 * units[n] for n in ("backbone.blocks.0", "backbone"))
    copied = 64 * 3 * 49 + 64 * 40 + 40 * 40 + 40 * 24  # patches, then the layers of the head
    found = planned_memory(config, 4, device="cuda", ranks=2).weights
    # The block at work, its gradients, these in float32; the next one twice; the root.
    assert found == block * (2 + 2 + 4 + 2 * 2) + root * 4 + copied * 2


def test_ddp_keeps_the_buckets_that_gradients_lie_in(small):
    config = small("parallel.mode=ddp", "batch_size=16")
    single, ddp = (planned_memory(config, 4, ranks=ranks) for ranks in (1, 4))
    assert (ddp.states, ddp.weights) == (single.states, single.weights)
    assert ddp.phases["forward"] == single.phases["forward"] + single.gradients


def test_accumulated_gradients_are_there_from_the_second_micro_batch_on(small):
    once, twice = (
        planned_memory(config, 4) for config in (small(), small("parallel.accumulate=2"))
    )
    more = twice.targets - once.targets + twice.crops - once.crops
    assert twice.phases["forward"] == once.phases["forward"] + once.gradients + more


def test_the_host_holds_the_copy_that_a_checkpoint_is_written_from(small, tmp_path, monkeypatch):
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
    found = sum(tensor.numel() * tensor.element_size() for tensor in whole)
    memory = planned_memory(config, 4)
    assert memory.host == pytest.approx(found, rel=0.01)
