"""Bytes and files of checkpoints and exports over a run, as `distributed.checkpoint` keeps them."""

from dataclasses import dataclass

from dinoforge.training.config import CheckpointConfig, TrainingConfig
from dinoforge.training.plan.placement import Placement, student_shapes

__all__ = ["Storage", "storage_of_run"]

_FLOAT32 = 4

# Bytes around every piece of a tensor: an archive of its own in the .distcp file (1,575), and its
# entry in .metadata (240); measured with torch 2.13.
_AROUND_A_PIECE = 1815


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

    @property
    def written_bytes(self) -> int:
        """Bytes written over the whole run."""
        exports = (self.checkpoints_written + 1) * self.export_bytes
        return self.checkpoints_written * self.checkpoint_bytes + exports

    @property
    def kept_bytes(self) -> int:
        """Bytes that are left at the end."""
        checkpoints = self.checkpoints_kept * self.checkpoint_bytes
        return checkpoints + self.exports_kept * self.export_bytes

    @property
    def files(self) -> int:
        """Files of checkpoints and exports that are left at the end."""
        return self.checkpoints_kept * self.files_of_checkpoint + self.exports_kept


def storage_of_run(config: TrainingConfig, placement: Placement) -> Storage:
    """Count what checkpoints and exports take.

    A checkpoint holds student, teacher, both moments and a step count of every parameter, and the
    two centers, in float32, in the format of torch.distributed.checkpoint: pieces as ranks hold
    them, each once (what several ranks hold is shared out among them). Every rank writes a file;
    an index and the manifest lie beside them.
    """
    shapes = student_shapes(config)
    parameters = sum(shape.numel() for shape in shapes.values())
    backbone = sum(shape.numel() for n, shape in shapes.items() if n.startswith("backbone."))
    # FSDP2 cuts a parameter along its first axis into parts of ceil(n / shards) rows.
    rows = [shape[0] for shape in shapes.values()]
    parts = sum(-(-n // -(-n // placement.shards)) for n in rows)
    pieces = 4 * parts + len(shapes) + 2
    patch_head = config.ibot_head if config.separate_heads else config.dino_head
    centers = config.dino_head.prototypes + patch_head.prototypes
    checkpoint = _FLOAT32 * (4 * parameters + len(shapes) + centers) + _AROUND_A_PIECE * pieces
    export = _FLOAT32 * backbone
    policy = config.checkpoint
    saved = [*range(policy.every, config.steps, policy.every), config.steps]
    exports = _kept([0, *saved], policy.keep, policy.export_every)
    return Storage(
        checkpoint_bytes=checkpoint,
        export_bytes=export,
        checkpoints_written=len(saved),
        checkpoints_kept=_kept(saved, policy.keep, policy.keep_every),
        exports_kept=exports,
        files_of_checkpoint=min(placement.ranks, pieces) + 2,
        peak_bytes=_most(saved, policy) * checkpoint + exports * export,
    )


def _kept(steps: list[int], newest: int, every: int) -> int:
    """Count the newest ones, and of the others those at multiples of ``every`` (0: none)."""
    return len(steps[-newest:]) + sum(1 for step in steps[:-newest] if every and step % every == 0)


def _most(saved: list[int], policy: CheckpointConfig) -> int:
    """Count the checkpoints there are while the last one is written: those before, and itself."""
    return _kept(saved[:-1], policy.keep, policy.keep_every) + 1
