"""How a run lies over its ranks: what the keys under ``parallel`` come to on so many of them."""

from dataclasses import dataclass

from dinoforge.training.config import Mode, TrainingConfig
from dinoforge.training.plan.parameters import student_parameters

__all__ = ["Placement"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Ranks, one process a GPU, and what they share; `of` follows the recipe."""

    ranks: int = 1
    ranks_per_node: int = 1  # of one machine
    mode: Mode = "single"
    shards: int = 1  # ranks that a parameter is divided over; 1: every rank holds all of it

    @classmethod
    def of(cls, config: TrainingConfig, ranks: int = 1, ranks_per_node: int = 8) -> "Placement":
        """Lay a recipe over so many ranks, as `training.distributed.parallel` would.

        Parameters
        ----------
        config : TrainingConfig
            Its `rank_faults` must have been found before.
        ranks, ranks_per_node : int
            At least 1; a machine holds no more than all.
        """
        mode = config.parallel.resolve_mode(ranks, student_parameters(config))
        per_node = min(ranks, ranks_per_node)
        return cls(
            ranks=ranks,
            ranks_per_node=per_node,
            mode=mode,
            shards=config.parallel.ranks_of_a_copy(mode, ranks, per_node),
        )

    @property
    def is_sharded(self) -> bool:
        """True under fsdp and hsdp."""
        return self.mode in ("fsdp", "hsdp")
