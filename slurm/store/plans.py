"""Plan files: what one job does; one file per array, not one pickle per element.

A plan is complete: its elements read neither the stage's plan nor the submissions, so a recipe that
changes later does not affect a pending job. The first job whose element claims a plan owns it; a
duplicate of that job does nothing.
"""

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dinoforge.errors import DinoforgeError
from dinoforge.files import write_json
from dinoforge.slurm.store.layout import SlurmFolder

__all__ = ["DUPLICATE", "JobPlan", "claim", "read_claim", "read_plan", "write_plan"]

DUPLICATE = 23  # exit code of a job whose plan belongs to another one


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The partitions of an array, or of a job of ranks.

    ``partitions`` and ``payloads`` go together; element ``k`` takes the ``k``-th run of
    ``per_element`` of them.
    """

    name: str = ""  # of the job
    stage: str
    ranks: bool = False  # its one partition is done by N ranks
    per_element: int
    partitions: list[int]
    payloads: list[dict[str, Any]]
    memory_gb: float
    minutes: int
    cpus: int
    gpus: int
    # of a stage of a pipeline
    pipeline: str = ""  # import path
    stage_fingerprint: str = ""  # what markers must prove; see `StagePlan`
    config: dict[str, Any] = field(default_factory=dict)  # the resolved recipe

    @property
    def elements(self) -> int:
        """Number of array elements."""
        return -(-len(self.partitions) // self.per_element)

    def first(self, elements: int) -> "JobPlan":
        """Cut the plan after some elements."""
        count = elements * self.per_element
        return replace(self, partitions=self.partitions[:count], payloads=self.payloads[:count])

    def element(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """Partitions of one element, with their payloads."""
        part = slice(number * self.per_element, (number + 1) * self.per_element)
        return list(zip(self.partitions[part], self.payloads[part], strict=True))


def write_plan(path: Path, plan: JobPlan) -> None:
    """Write a plan file, atomically."""
    write_json(path, asdict(plan))


def read_plan(path: Path) -> JobPlan:
    """Read a plan file."""
    return JobPlan(**json.loads(path.read_text(encoding="utf-8")))


def claim(folder: SlurmFolder, name: str, job: str) -> bool:
    """Claim a plan for a job id; False if it belongs to another job."""
    path = folder.claim(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if read_claim(folder, name) is None:
        # Written aside and linked, so that nobody reads half of it.
        draft = path.with_name(f".{name}.tmp-{job}-{os.getpid()}-{secrets.token_hex(4)}")
        draft.write_text(job, encoding="ascii")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError as error:
            raise DinoforgeError(f"cannot claim {path}: {error}") from error
        finally:
            draft.unlink(missing_ok=True)
    return read_claim(folder, name) == job


def read_claim(folder: SlurmFolder, name: str) -> str | None:
    """Id of the job that owns a plan; None if none has started."""
    try:
        return folder.claim(name).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
