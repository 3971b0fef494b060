"""Memory of one rank by part, and its peak in each phase of a step.

States are float32: student 4, gradients 4, AdamW 8, teacher 4 bytes per parameter, divided by the
ranks that share them. All else that a step allocates was seen in a simulated one
(`training.plan.simulation`), but for what FSDP2 gathers: blocks in the dtype of the products, all
else in float32; gradients are reduced in float32 (`training.distributed.parallel`).

Not counted: the CUDA context, communication buffers, fragmentation. `training.plan.hardware` keeps
room for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan.placement import Placement
from dinoforge.training.plan.simulation import MicroBatch

__all__ = ["Memory", "memory_of_rank"]

_FLOAT32, _BFLOAT16 = 4, 2  # bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of the rank that holds most."""

    student: int
    gradients: int
    optimizer: int
    teacher: int
    # weights beside the float32 ones that are updated: copies by autocast, units gathered by FSDP2
    # with the gradients that it reduces
    weights: int
    crops: int  # the batch, float32, and its division into micro-batches
    targets: int  # teacher's output for all micro-batches, kept until the step ends
    activations: Mapping[str, int]  # of one micro-batch, by the part that made them
    phases: Mapping[str, int]  # peak of each phase, everything included
    host: int  # on the CPU: the copy that a checkpoint is written from while training goes on

    @property
    def states(self) -> int:
        """Bytes that are kept between two steps."""
        return self.student + self.gradients + self.optimizer + self.teacher

    @property
    def peak(self) -> int:
        """Peak of the whole step."""
        return max(self.phases.values())


def memory_of_rank(
    config: TrainingConfig,
    placement: Placement,
    batch: MicroBatch,
    held: Mapping[str, int],
    shapes: Mapping[str, torch.Size],
) -> Memory:
    """Count the memory of rank 0.

    Parameters
    ----------
    config : TrainingConfig
    placement : Placement
    batch : MicroBatch
        A simulated micro-batch of this rank.
    held, shapes : mapping
        See `held_by_rank_0` and `student_shapes`.
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    one = _FLOAT32 * sum(held.values())
    sharded, micro_batches = placement.is_sharded, config.parallel.accumulate
    gathered = _gathered(config, placement, held) if sharded else 0
    copies = batch.kept["copies"] + (0 if sharded else batch.kept["block_copies"])
    # Micro-batches are copies; a single one is the batch itself.
    crops = batch.crops if micro_batches == 1 else 2 * micro_batches * batch.crops
    targets = batch.kept["targets"]
    # Gradients of the step before are dropped when the student begins. DDP keeps its buckets, and
    # all but the first of several micro-batches add to what is there.
    stay = placement.mode == "ddp" or micro_batches > 1
    share = 0.0 if stay else sum(held.values()) / sum(sizes.values())
    peaks = batch.peaks(gradients=share, block_copies=not sharded)
    states = 4 * one + crops
    student = states + gathered + (one if stay else 0) + (micro_batches - 1) * targets
    backbone = sum(size for name, size in sizes.items() if name.startswith("backbone."))
    return Memory(
        student=one,
        gradients=one,
        optimizer=2 * one,
        teacher=one,
        weights=copies + gathered,
        crops=crops,
        targets=micro_batches * targets,
        activations=batch.activations,
        phases={
            "teacher": states + one + gathered + micro_batches * peaks["teacher"],
            "forward": student + peaks["forward"],
            "backward": student + peaks["backward"],
            "update": states + one + micro_batches * targets,
        },
        # A copy of everything that this rank holds, and on rank 0 of the teacher's whole backbone.
        host=4 * one + _FLOAT32 * backbone,
    )


def _gathered(config: TrainingConfig, placement: Placement, held: Mapping[str, int]) -> int:
    """Bytes of units that FSDP2 gathers, and of their gradients, at the fullest moment."""
    product = _FLOAT32 if config.precision == "float32" else _BFLOAT16
    # Every rank holds a part of equal size of every parameter, padded where it does not divide.
    whole = {name: placement.shards * size for name, size in held.items()}
    gathered = {
        name: size * (product if ".blocks." in name else _FLOAT32) for name, size in whole.items()
    }
    # The unit at work with its gradients, and these in float32 as they are reduced; the next block
    # as it arrives and as it is copied out; the rest of the backbone, which its blocks run inside.
    at_work = max(2 * gathered[name] + _FLOAT32 * size for name, size in whole.items())
    block = max(size for name, size in gathered.items() if ".blocks." in name)
    return at_work + 2 * block + gathered["backbone"]
