"""Profiles: what each kind of job asks of a cluster, typed, every mistyped key named.

A profile is a YAML file like a recipe, but it never changes a result: partitions, memory, minutes.
Blocks are laid over each other: built-in values <- ``default`` <- ``cpu`` or ``gpu`` (by what the
stage runs on) <- ``stages.NAME``.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from dinoforge.config import find_recipe, load_config
from dinoforge.errors import Fault

__all__ = ["Job", "JobBlock", "Profile", "load_profile"]


@dataclass(frozen=True, kw_only=True)
class JobBlock:
    """What one block of a profile says; null leaves a key to the block below."""

    partition: str | None = None  # partition of the cluster; null: its default one
    account: str | None = None  # account to charge
    qos: str | None = None  # quality of service
    constraint: str | None = None  # features that a node must have, as sbatch takes them
    nodes: int | None = None  # nodes of a training or evaluation job; built-in 1
    tasks_per_node: int | None = None  # ranks a node: one a GPU; built-in 1
    gpus_per_node: int | None = None  # GPUs a node; built-in 0
    cpus_per_task: int | None = None  # CPUs a task; built-in 1
    memory_gb: float | None = None  # memory a node, GB as SLURM counts them; built-in 4
    minutes: int | None = None  # time limit; built-in 60
    array_parallelism: int | None = None  # array elements that run at once (%N); built-in 256
    partitions_per_element: int | None = None  # one after the other in an element; built-in 1
    setup: list[str] | None = None  # shell lines before the program: modules, venv, exports
    python: str | None = None  # interpreter on the nodes, or a container call; null: this one
    sbatch: dict[str, Any] | None = None  # further sbatch options, e.g. {reservation: night}

    def faults(self, at: str) -> Iterator[Fault]:
        """Find numbers out of range and lines that would break the script."""
        least = {"gpus_per_node": 0}
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and value < least.get(name, 1) and value != 0.5:
                text = f"`{at}.{name}` is {value}"
                yield Fault(text, "profile", f"give {least.get(name, 1)} or more")
        for line in self.setup or []:
            if "\n" in line:
                yield Fault(f"`{at}.setup` has a line break", "profile", "give one line an entry")
        for name in self.sbatch or {}:
            if name.replace("-", "_") in _OURS:
                text = f"`{at}.sbatch.{name}` is decided by dinoforge"
                yield Fault(text, "profile", f"remove it{_instead(name)}")


_NUMBERS = (
    "nodes",
    "tasks_per_node",
    "gpus_per_node",
    "cpus_per_task",
    "memory_gb",
    "minutes",
    "array_parallelism",
    "partitions_per_element",
)

# sbatch options that the ledger, the gates or a key of the block decide.
_OURS = {
    "array": "array_parallelism",
    "chdir": "",
    "cpus_per_task": "cpus_per_task",
    "dependency": "",
    "error": "",
    "export": "",
    "gpus_per_node": "gpus_per_node",
    "job_name": "",
    "kill_on_invalid_dep": "",
    "mem": "memory_gb",
    "nodes": "nodes",
    "ntasks_per_node": "tasks_per_node",
    "open_mode": "",
    "output": "",
    "partition": "partition",
    "requeue": "",
    "signal": "",
    "time": "minutes",
}


def _instead(name: str) -> str:
    key = _OURS[name.replace("-", "_")]
    return f", write `{key}`" if key else ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one job asks for, every value decided; fields as in `JobBlock`."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    memory_gb: float = 4.0
    minutes: int = 60
    array_parallelism: int = 256
    partitions_per_element: int = 1
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    sbatch: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A cluster as one user uses it."""

    default: JobBlock = field(default_factory=JobBlock)
    cpu: JobBlock = field(default_factory=JobBlock)  # stages that run on CPUs
    gpu: JobBlock = field(default_factory=JobBlock)  # stages and trainings with device=cuda
    gate: JobBlock = field(default_factory=JobBlock)  # the small job between two stages
    # by name of a stage, or `train`, `evaluate`
    stages: dict[str, JobBlock] = field(default_factory=dict)
    snapshot: bool = True  # jobs run a read-only copy of the code as it was at submission
    probe: bool = True  # a one-minute job first: do nodes see the run folder and the packages?
    nodes_may_submit: bool = True  # false: gates only record; `dinoforge retry RUN` goes on
    # an element that was its stage's only one goes on with later stages of one element that ask for
    # no more than it has: each spares two waits in the queue
    walk_on: bool = True
    max_attempts: int = 3  # submissions of a stage without one more partition done
    max_queued: int = 0  # array elements in the queue at once; 0: what the cluster allows
    # seconds before the time limit at which a training is told to save
    signal_before_s: int = 120

    def faults(self, at: str) -> Iterator[Fault]:
        """Find counters out of range, and faults of the blocks by name."""
        for name, least in (("max_attempts", 1), ("max_queued", 0), ("signal_before_s", 10)):
            value = getattr(self, name)
            if value < least:
                yield Fault(f"`{name}` is {value}", "profile", f"give {least} or more")
        for name, block in self.stages.items():
            yield from block.faults(f"{at}.stages.{name}".lstrip("."))

    def job(self, name: str, kind: Literal["cpu", "gpu", "gate"]) -> Job:
        """Lay the blocks over each other for one stage, or for the gate."""
        said: dict[str, Any] = {"minutes": 30} if kind == "gate" else {}
        blocks = [self.default, getattr(self, kind), self.stages.get(name, JobBlock())]
        for block in blocks if kind != "gate" else blocks[:2]:
            said |= {key: value for key, value in _fields(block).items() if value is not None}
        if kind == "gate":
            # A gate reads markers and tables: what `default` says of size is not for it.
            small = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0, "cpus_per_task": 1}
            said |= small | {"memory_gb": self.gate.memory_gb or 4.0}
            said["minutes"] = self.gate.minutes or 30
        return Job(**said)


def _fields(block: JobBlock) -> dict[str, Any]:
    return {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}


def load_profile(name: str) -> Profile:
    """Load a profile given by path, or by the name of one that comes along.

    Raises
    ------
    UsageError
        If there is none (the nearest is named), or all of its faults.
    """
    return load_config(Profile, find_recipe("slurm", name))
