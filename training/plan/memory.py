"""Memory of one rank by part, and when in a step it is largest.

States are float32: student 4, gradients 4, AdamW 8, teacher 4 bytes a parameter, divided by the
ranks that share them. Activations are those of `training.plan.activations`. What comes and goes
(gathered weights, gradients of activations) is estimated from its largest part.

FSDP2 gathers blocks in the dtype of the products, all else in float32, and reduces gradients in
float32 (`training.distributed.parallel.shard_method`); tokens are float32 between the blocks.

Not counted: the CUDA context, communication buffers, fragmentation. `training.plan.hardware` keeps
room for them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan.activations import (
    Activations,
    Numerics,
    branch_bytes,
    saved_activations,
)
from dinoforge.training.plan.parameters import Shapes, count, largest_part, student_units
from dinoforge.training.plan.placement import Placement
from dinoforge.training.plan.workload import Workload, most_masked

__all__ = ["Memory", "memory_of_rank"]

_FLOAT32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes of the rank that holds most."""

    student: int
    gradients: int
    optimizer: int
    teacher: int
    # weights beside the float32 ones that are updated: copies of autocast, units gathered by FSDP2
    # with the gradients that it reduces
    weights: int
    crops: int  # the batch itself, float32, and its cut into micro-batches
    targets: int  # what the teacher said about all micro-batches, kept until the step ends
    activations: Activations  # of one micro-batch
    phases: Mapping[str, int]  # all of it, at the fullest moment of each phase
    host: int  # on the CPU: the copy that a checkpoint is written from while training goes on

    @property
    def states(self) -> int:
        """What is there between two steps."""
        return self.student + self.gradients + self.optimizer + self.teacher

    @property
    def peak(self) -> int:
        """Most of the whole step."""
        return max(self.phases.values())


def memory_of_rank(
    config: TrainingConfig,
    placement: Placement,
    numerics: Numerics,
    images: int,
    *,
    masked: int | None = None,
) -> Memory:
    """Count the memory of one rank.

    Parameters
    ----------
    config : TrainingConfig
    placement : Placement
    numerics : Numerics
    images : int
        Images of a micro-batch of this rank.
    masked : int, optional
        Masked patches of the micro-batch; by default the most that can be drawn.
    """
    if masked is None:
        side = config.crops.global_size // config.model.patch_size
        masked = most_masked(config.masks, 2 * images, side**2)
    work = Workload.of(config, images, masked=masked)
    units = student_units(config)
    held = {name: largest_part(shapes, placement.shards) for name, shapes in units.items()}
    bytes_held = _FLOAT32 * sum(held.values())
    saved = saved_activations(config, work, numerics)
    micro_batches = config.parallel.accumulate
    batch = _FLOAT32 * sum(c.samples * 3 * c.size**2 for c in work.crops)
    parts = {
        "student": bytes_held,
        "gradients": bytes_held,
        "optimizer": 2 * bytes_held,
        "teacher": bytes_held,
        "weights": _weights(units, placement, numerics),
        # Micro-batches are copies; a single one is the batch itself.
        "crops": batch if micro_batches == 1 else 2 * micro_batches * batch,
        "targets": micro_batches * _targets(config, work, numerics),
    }
    passing = _passing(config, work, numerics)
    base = sum(parts.values())
    before = base - bytes_held
    # Gradients of the step before are there until the student begins; DDP keeps its buckets, and
    # so do all but the first of several micro-batches.
    stays = placement.mode == "ddp" or micro_batches > 1
    early = bytes_held if stays else 0
    # They grow from the heads on.
    heads = _FLOAT32 * sum(size for name, size in held.items() if name.endswith("_head"))
    depth = config.model.vit(config.crops.global_size).depth
    one_block = (saved.global_blocks + saved.local_blocks + saved.block_inputs) // depth
    last_block = max(early, heads) + saved.total - saved.logits - saved.heads - saved.backbone_ends
    first_block = bytes_held + saved.images + saved.backbone_ends + one_block
    phases = {
        "teacher": base + micro_batches * passing.teacher,
        "forward": before + early + saved.total + passing.loss,
        "backward": before + early + saved.total + passing.loss_backward,
        "blocks backward": before + max(last_block, first_block) + passing.block_backward,
        "update": base,
    }
    # A copy of everything that this rank holds, and on rank 0 of the teacher's whole backbone.
    backbone = sum(count(shapes) for name, shapes in units.items() if name.startswith("backbone"))
    host = 4 * bytes_held + _FLOAT32 * backbone
    return Memory(**parts, activations=saved, phases=phases, host=host)


def _weights(units: Mapping[str, Shapes], placement: Placement, numerics: Numerics) -> int:
    """Bytes of weights beside the float32 ones that the optimizer updates."""
    halved = numerics.product != _FLOAT32
    copied = list(units.values())
    if placement.is_sharded:  # blocks come in the dtype of the products
        copied = [shapes for name, shapes in units.items() if ".blocks." not in name]
    copies = sum(map(_matrices, copied)) * numerics.product if halved else 0
    if not placement.is_sharded:
        return copies
    # Every rank holds a part of equal size of every parameter, padded where it does not divide.
    whole = {
        name: placement.shards * largest_part(shapes, placement.shards)
        for name, shapes in units.items()
    }
    gathered = {
        name: size * (numerics.product if ".blocks." in name else _FLOAT32)
        for name, size in whole.items()
    }
    # The unit at work with its gradients, and these in float32 as they are reduced; the next block
    # as it arrives and as it is copied out; the rest of the backbone, which its blocks run inside.
    at_work = max(2 * gathered[name] + _FLOAT32 * size for name, size in whole.items())
    block = max(size for name, size in gathered.items() if ".blocks." in name)
    return copies + at_work + 2 * block + gathered["backbone"]


def _matrices(shapes: Shapes) -> int:
    """Parameters that autocast copies and autograd keeps: weights of linear layers.

    Prototypes are normalized first; that copy is an activation of the head.
    """
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) > 1
    )


def _targets(config: TrainingConfig, work: Workload, numerics: Numerics) -> int:
    """Bytes of `training.method.Targets`: probabilities in float32, class tokens.

    The latter are a view: all normed tokens of the global crops stay.
    """
    width = config.model.vit(config.crops.global_size).width
    tokens = work.global_crops.all_tokens * width * numerics.stream
    return tokens + _FLOAT32 * sum(_teacher_scores(config, work))


def _teacher_scores(config: TrainingConfig, work: Workload) -> tuple[int, int]:
    """Scores that the teacher gives to class tokens and to masked patches."""
    patch_head = config.ibot_head if config.separate_heads else config.dino_head
    classes = work.teacher_rows * config.dino_head.prototypes
    return classes, int(work.masked) * patch_head.prototypes


class _Passing(NamedTuple):
    """Bytes that come and go at the fullest moments, beside what is saved."""

    teacher: int  # balancing, beside the targets that come of it; of each micro-batch
    loss: int  # of the patches, forward
    loss_backward: int
    block_backward: int


def _passing(config: TrainingConfig, work: Workload, numerics: Numerics) -> _Passing:
    """Follow `training.method.Method` and its backward pass."""
    vit = config.model.vit(config.crops.global_size)
    product, stream = numerics.product, numerics.stream
    patch_head = config.ibot_head if config.separate_heads else config.dino_head
    patch_scores = int(work.masked) * patch_head.prototypes
    class_scores = work.student_rows * config.dino_head.prototypes
    local_scores = work.local_crops.samples * config.dino_head.prototypes
    converted = _FLOAT32 if product != _FLOAT32 else 0  # scores in float32 beside their own dtype
    # Normed tokens live until the method returns; KoLeo saves those of the global crops anyway.
    normed = work.crops[1:] if config.loss.koleo and work.group > 1 else work.crops
    tokens = sum(crops.all_tokens for crops in normed) * vit.width * stream
    rows = max(patch_scores, local_scores)
    return _Passing(
        teacher=_balancing(config, work, numerics),
        # Class scores wait beside those at work, which are divided by the temperature.
        loss=class_scores * product + rows * (product + converted + _FLOAT32) + tokens,
        loss_backward=rows * _FLOAT32,
        block_backward=_block_backward(config, work, numerics),
    )


def _balancing(config: TrainingConfig, work: Workload, numerics: Numerics) -> int:
    """Bytes at the fuller of the two calls that balance scores: those of classes come first.

    All scores wait as they came. Those at work lie there once more, put together; then Sinkhorn
    holds two steps of their way to probabilities, centering a converted copy besides.
    """
    product = numerics.product
    at_work = product + 2 * _FLOAT32
    if config.teacher.balance == "centering" and product != _FLOAT32:
        at_work += _FLOAT32
    classes, patches = _teacher_scores(config, work)
    targets = _FLOAT32 * (classes + patches)
    waiting = product * (classes + patches)
    balanced = _FLOAT32 * classes
    fullest = max(at_work * classes, balanced + at_work * patches)
    return max(waiting + fullest - targets, 0)


def _block_backward(config: TrainingConfig, work: Workload, numerics: Numerics) -> int:
    """Bytes of gradients inside the last block, beside what it saved."""
    vit = config.model.vit(config.crops.global_size)
    # Gradients of all tokens, of a branch, and of its hidden layer: what is saved there is freed
    # as they come, but of a gate both factors get one.
    hidden = (2 if vit.ffn == "swiglu" else 1) * vit.ffn_width * numerics.product
    tokens = sum(crops.all_tokens for crops in work.crops) * vit.width * numerics.stream
    kept = max(crops.kept_tokens for crops in work.crops)
    block = kept * (hidden + vit.width * numerics.stream) + tokens
    # Branches come back in the reverse order: that of the local crops is done by then.
    (whole, whole_ffn), (local, local_ffn) = (
        branch_bytes(config, crops, numerics) for crops in work.crops
    )
    if config.parallel.activation_checkpointing == "blocks":
        block += whole + whole_ffn + local
        if not config.model.drop_path:  # the input of the block is kept already
            block -= tokens
    elif not numerics.packed:
        block -= local_ffn
    return block
