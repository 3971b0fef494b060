"""Bytes of a run: in the memory of one rank, and of its checkpoints and exports on disk.

States are float32: student 4, gradients 4, AdamW 8, teacher 4 bytes per parameter, divided by the
ranks that share them. All else that a step allocates was seen in a simulated one
(`training.plan.simulation`), but for what FSDP2 gathers: blocks in the dtype of the products, all
else in float32; gradients are reduced in float32 (`training.distributed.parallel`).

Not counted: the CUDA context, communication buffers, fragmentation. `dinoforge.hardware` keeps
room for them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from dinoforge.training.config import TrainingConfig
from dinoforge.training.plan.ledger import ACTIVATIONS
from dinoforge.training.plan.placement import Placement, method_on_meta
from dinoforge.training.plan.simulation import MicroBatch

__all__ = ["Memory", "Storage", "memory_of_rank", "storage_of_run"]

_FLOAT32, _BFLOAT16 = 4, 2  # bytes

# Bytes around every piece of a tensor: an archive of its own in the .distcp file (1,575), and its
# entry in .metadata (240); measured with torch 2.13.
_AROUND_A_PIECE = 1815


@dataclass(frozen=True)
class Memory:
    """Bytes of the rank that holds most."""

    student: int
    gradients: int
    optimizer: int
    teacher: int  # with the frozen one of a distillation, if any
    # weights beside the float32 ones that are updated: copies by autocast, units gathered by FSDP2
    # with the gradients that it reduces
    weights: int
    crops: int  # the batch, float32, and its division into micro-batches
    targets: int  # teacher's output for all micro-batches, kept until the step ends
    activations: Mapping[str, int]  # of one micro-batch, by the part that made them
    phases: Mapping[str, int]  # peak of each phase, everything included
    host: int  # on the CPU: the copy that a checkpoint is written from while training goes on
    peak: int  # of the whole step
    states: int  # student, gradients, optimizer and teacher: kept between two steps


def memory_of_rank(
    config: TrainingConfig,
    placement: Placement,
    parameters: Mapping[str, int],
    held: Mapping[str, int],
    batch: MicroBatch,
    frozen: Mapping[str, int] = MappingProxyType({}),
) -> Memory:
    """Count the memory of rank 0, from `student_parameters`, `held_by_rank_0`, a micro-batch.

    ``frozen`` is what it holds of the frozen teacher of a distillation.
    """
    one, stays = (_FLOAT32 * sum(part.values()) for part in (held, frozen))
    moments, teacher = _moments(config) * one, stays + (0 if config.has_support else one)
    states = one + moments + teacher  # and gradients, while there are any
    sharded, micro_batches = placement.is_sharded, config.parallel.accumulate
    gathered, for_targets = 0, 0
    if sharded:
        gathered = for_targets = _gathered(config, placement, held)
        if frozen:
            for_targets = _gathered(config, placement, frozen, gradients=False)
    kept = batch.kept
    copies = kept["copies"] + (0 if sharded else kept["block_copies"])
    # Micro-batches are copies; a single one is the batch itself.
    pixels = config.crops.pixels * batch.images
    pixels += config.support_crops(placement.ranks) * config.crops.global_size**2
    crops = _FLOAT32 * 3 * pixels
    crops *= 1 if micro_batches == 1 else 2 * micro_batches
    targets = micro_batches * kept["targets"]
    # Gradients of the step before are dropped when the student begins. DDP keeps its buckets, and
    # all but the first of several micro-batches add to what is there.
    stay = placement.mode == "ddp" or micro_batches > 1
    share = 0.0 if stay else sum(held.values()) / sum(parameters.values())
    # Autocast copies no weights of blocks that are gathered in the dtype of the products.
    peaks = batch.peaks(gradients=share, block_copies=float(not sharded))
    student = states + crops + gathered + (one if stay else 0) + targets - kept["targets"]
    phases = {
        "teacher": states + one + crops + for_targets + micro_batches * peaks["teacher"],
        "forward": student + peaks["forward"],
        "backward": student + peaks["backward"],
        "update": states + one + crops + targets,
    }
    return Memory(
        student=one,
        gradients=one,
        optimizer=moments,
        teacher=teacher,
        weights=copies + max(gathered, for_targets),
        crops=crops,
        targets=targets,
        activations={part: kept[part] for part in ACTIVATIONS},
        phases=phases,
        # A copy of everything that this rank holds, and on rank 0 of the whole exported backbone.
        host=states - stays + _FLOAT32 * parameters["backbone"],
        peak=max(phases.values()),
        states=states + one,
    )


def _moments(config: TrainingConfig) -> int:
    """Count the optimizer's tensors per parameter."""
    return 2 if config.optimizer.name == "adamw" else 1


def _gathered(
    config: TrainingConfig, placement: Placement, held: Mapping[str, int], *, gradients: bool = True
) -> int:
    """Bytes of units that FSDP2 gathers, and of their gradients, at the fullest moment."""
    product = _FLOAT32 if config.precision == "float32" else _BFLOAT16
    # Every rank holds a part of equal size of every parameter, padded where it does not divide.
    whole = {name: placement.shards * size for name, size in held.items()}
    widths = {name: product if ".blocks." in name else _FLOAT32 for name in whole}
    gathered = {name: size * widths[name] for name, size in whole.items()}
    # The unit at work with its gradients, and these in float32 as they are reduced; the next block
    # as it arrives and as it is copied out; the rest of the backbone, which its blocks run inside.
    at_work = max(
        2 * gathered[name] + _FLOAT32 * size if gradients else gathered[name]
        for name, size in whole.items()
    )
    block = max((size for name, size in gathered.items() if ".blocks." in name), default=0)
    return at_work + 2 * block + gathered["backbone"]


@dataclass(frozen=True)
class Storage:
    """What a run writes and leaves."""

    checkpoint_bytes: int  # of one checkpoint
    export_bytes: int  # tensors of one backbone
    checkpoints_written: int
    checkpoints_kept: int
    exports_kept: int
    files_of_checkpoint: int  # at most: a rank without any piece writes none
    peak_bytes: int  # everything kept and one checkpoint being written
    written_bytes: int  # over the whole run
    kept_bytes: int  # at the end
    files: int  # of the checkpoints and exports at the end


def storage_of_run(config: TrainingConfig, placement: Placement) -> Storage:
    """Count what checkpoints and exports take.

    A checkpoint holds student, teacher if any, the optimizer's tensors of every trained parameter,
    and buffers, in float32 (counts of batches: int64), in the format of
    torch.distributed.checkpoint: pieces as ranks hold them, each once (what several ranks hold is
    shared out among them). Every rank writes a file; an index and the manifest lie beside them.
    """
    method = method_on_meta(config)
    student, saved_names = method.student, method.saved().keys()
    buffers = [buffer for name, buffer in method.named_buffers() if name in saved_names]
    pieces, numbers = len(buffers), 0
    for parameter in student.parameters():
        trained, rows = parameter.requires_grad, parameter.shape[0]
        # FSDP2 cuts a parameter along its first axis into parts of ceil(n / shards) rows.
        parts = -(-rows // -(-rows // placement.shards))
        copies = 1 + bool(method.teacher) + trained * _moments(config)
        counted = trained and config.optimizer.name == "adamw"  # its steps
        pieces += copies * parts + counted
        numbers += copies * parameter.numel() + counted
    checkpoint = _FLOAT32 * numbers + _bytes_of(buffers) + _AROUND_A_PIECE * pieces
    export = _bytes_of(student["backbone"].state_dict().values())
    policy = config.checkpoint
    saved = [*range(policy.every, config.steps, policy.every), config.steps]
    checkpoints = _kept(saved, policy.keep, policy.keep_every)
    exports = _kept([0, *saved], policy.keep, policy.export_every)
    # While the last one is written, there are those kept before it, and itself.
    most = _kept(saved[:-1], policy.keep, policy.keep_every) + 1
    files = min(placement.ranks, pieces) + 2
    return Storage(
        checkpoint_bytes=checkpoint,
        export_bytes=export,
        checkpoints_written=len(saved),
        checkpoints_kept=checkpoints,
        exports_kept=exports,
        files_of_checkpoint=files,
        peak_bytes=most * checkpoint + exports * export,
        written_bytes=len(saved) * checkpoint + (len(saved) + 1) * export,
        kept_bytes=checkpoints * checkpoint + exports * export,
        files=checkpoints * files + exports,
    )


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(
        t.numel() * (_FLOAT32 if t.is_floating_point() else t.element_size()) for t in tensors
    )


def _kept(steps: list[int], newest: int, every: int) -> int:
    """Count the newest ones, and of the others those at multiples of ``every`` (0: none)."""
    return len(steps[-newest:]) + sum(1 for step in steps[:-newest] if every and step % every == 0)
