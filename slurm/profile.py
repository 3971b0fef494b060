"""Profiles: the resources that each kind of job requests from a cluster.

A profile is a YAML file like a recipe, but it never changes a result: partitions, memory, minutes.
Later blocks override earlier ones: built-in values <- ``default`` <- ``cpu`` or ``gpu`` (by what
the stage runs on) <- ``stages.NAME``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from dinoforge.config import find_recipe, load_config
from dinoforge.config.ranges import Allowed, NonNegativeInt, PositiveInt, Range
from dinoforge.errors import Fault

__all__ = ["Job", "JobBlock", "Profile", "load_profile"]

# sbatch options that a key of a block decides, and those that dinoforge sets itself.
_BLOCK_KEYS = {key: key for key in ("cpus_per_task", "gpus_per_node", "nodes", "partition")}
_BLOCK_KEYS |= {"array": "array_parallelism", "mem": "memory_gb", "time": "minutes"}
_BLOCK_KEYS |= {"ntasks_per_node": "tasks_per_node"}
_FIXED = {"chdir", "dependency", "error", "export", "job_name", "kill_on_invalid_dep"}
_FIXED |= {"open_mode", "output", "requeue", "signal"}

_Line = Annotated[str, Allowed(lambda line: "\n" not in line, "text without a line break")]
# A line break would end the comment of the batch script in which the option is.
_Option = Annotated[
    Any,
    Allowed(
        lambda value: not isinstance(value, dict | list) and "\n" not in str(value),
        "a number, true, or text without a line break",
    ),
]


@dataclass(frozen=True, kw_only=True)
class JobBlock:
    """One block of a profile; null leaves a key to the blocks before it."""

    partition: _Line | None = None  # partition of the cluster; null: its default one
    account: _Line | None = None  # account to charge
    qos: _Line | None = None  # quality of service
    constraint: _Line | None = None  # features that a node must have, in sbatch's syntax
    nodes: PositiveInt | None = None  # nodes of a training or evaluation job; built-in 1
    tasks_per_node: PositiveInt | None = None  # ranks per node: one per GPU; built-in 1
    gpus_per_node: NonNegativeInt | None = None  # GPUs per node; built-in 0
    cpus_per_task: PositiveInt | None = None  # CPUs per task; built-in 1
    # memory per node, in GB as SLURM counts them; built-in 4
    memory_gb: Annotated[float, Range(0.5)] | None = None
    minutes: PositiveInt | None = None  # time limit; built-in 60
    array_parallelism: PositiveInt | None = None  # array elements running at once; built-in 256
    partitions_per_element: PositiveInt | None = None  # run one after the other; built-in 1
    setup: list[_Line] | None = None  # shell lines before the program: modules, venv, exports
    python: _Line | None = None  # interpreter on the nodes, or a container call; null: this one
    sbatch: dict[str, _Option] | None = None  # further sbatch options, e.g. {reservation: night}

    def faults(self, at: str) -> Iterator[Fault]:
        """Find sbatch options that dinoforge sets, and names that are none."""
        for name in self.sbatch or {}:
            option = name.replace("-", "_")
            if option in _FIXED or option in _BLOCK_KEYS:
                what = f"`{at}.sbatch.{name}` is set by dinoforge"
                key = f", write `{_BLOCK_KEYS[option]}`" if option in _BLOCK_KEYS else ""
                yield Fault(what, "recipe", f"remove it{key}")
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
                what = f"`{at}.sbatch` holds {name!r}, which is no option"
                yield Fault(what, "recipe", "write a long option without --, such as reservation")


@dataclass(frozen=True, kw_only=True)
class Job(JobBlock):
    """The resources of one job: a block in which every key with a built-in value is set."""

    device: str = "cpu"  # that it computes on
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    memory_gb: float = 4.0
    minutes: int = 60
    array_parallelism: int = 256
    partitions_per_element: int = 1
    setup: list[str] = field(default_factory=list)
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
    nodes_may_submit: bool = True  # false: gates only record; `dinoforge retry RUN` continues
    # an element that was the only one of its stage continues with later stages of one element that
    # request no more resources: each saves two waits in the queue
    walk_on: bool = True
    max_attempts: PositiveInt = 3  # submissions of a stage without one more partition done
    max_queued: NonNegativeInt = 0  # array elements in the queue at once; 0: the cluster's limit
    # seconds before the time limit at which a training receives the signal to save
    signal_before_s: Annotated[int, Range(10)] = 120

    def job(self, name: str, on: str) -> Job:
        """Merge the blocks for one stage, ``train``, ``evaluate``, or the gate.

        ``on`` is ``gate``, or the device: ``cpu``, or any other one, which is a GPU.
        """
        blocks = [self.default, {"gate": self.gate, "cpu": self.cpu}.get(on, self.gpu)]
        if on != "gate":
            blocks.append(self.stages.get(name, JobBlock()))
        keys: dict[str, Any] = {}
        for block in blocks:
            keys |= {key: value for key, value in vars(block).items() if value is not None}
        if on == "gate":  # it reads markers and tables: the sizes of `default` do not apply
            keys |= {"gpus_per_node": 0, "cpus_per_task": 1}
            keys |= {"memory_gb": self.gate.memory_gb or 4.0, "minutes": self.gate.minutes or 30}
        if name != "train":  # one process
            keys |= {"nodes": 1, "tasks_per_node": 1}
        if name in {"train", "evaluate"}:
            keys["partitions_per_element"] = 1
        return Job(**keys, device="cpu" if on == "gate" else on)


def load_profile(name: str) -> Profile:
    """Load a profile given by path, or by the name of a built-in one.

    Raises a `UsageError` if there is none (the nearest is named), or with all of its faults.
    """
    return load_config(Profile, find_recipe("slurm", name))
