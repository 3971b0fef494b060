"""Plan files: what the elements of one array do; one file a chunk, not a pickle an element.

A plan is complete: its elements read neither the stage's plan nor the ledger, so a recipe that
changes later cannot slip under a job that waits in the queue.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinoforge.files import write_json

__all__ = ["ArrayPlan", "read_plan", "write_plan"]


@dataclass(frozen=True, kw_only=True)
class ArrayPlan:
    """One array: its elements restart at 0, ``offset`` says which one of the stage's is its first.

    ``partitions`` and ``payloads`` go together; element ``k`` takes the ``k``-th run of
    ``per_element`` of them.
    """

    name: str  # of the job
    pipeline: str  # import path
    stage: str
    stage_fingerprint: str  # what markers must prove; see `StagePlan`
    config: dict[str, Any]  # the resolved recipe
    offset: int
    per_element: int
    partitions: list[int]
    payloads: list[dict[str, Any]]
    memory_gb: float
    minutes: int
    cpus: int
    gpus: int

    @property
    def elements(self) -> int:
        """Number of array elements."""
        return -(-len(self.partitions) // self.per_element)

    def element(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """Partitions of one element, with their payloads."""
        part = slice(number * self.per_element, (number + 1) * self.per_element)
        return list(zip(self.partitions[part], self.payloads[part], strict=True))

    def element_of(self, partition: int) -> int:
        """Array element that does a partition."""
        return self.partitions.index(partition) // self.per_element


def write_plan(path: Path, plan: ArrayPlan) -> None:
    """Write a plan file, atomically."""
    write_json(path, asdict(plan))


def read_plan(path: Path) -> ArrayPlan:
    """Read a plan file."""
    return ArrayPlan(**json.loads(path.read_text(encoding="utf-8")))
