"""What a cluster offers: array size, queue room, the largest node of each partition.

`check_jobs` compares it with a profile: a job that no node can run would stay pending forever.
"""

import getpass
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dinoforge.config import nearest
from dinoforge.errors import Fault
from dinoforge.slurm.cluster.commands import SlurmError, ask, seconds
from dinoforge.slurm.profile import Job

__all__ = ["check_jobs", "max_array_size", "parse_partitions", "read_partitions", "submit_limit"]


@dataclass(frozen=True, kw_only=True)
class PartitionFacts:
    """One partition; sizes are those of its largest node."""

    name: str
    is_default: bool = False
    is_up: bool = True
    nodes: int = 0
    cpus: int = 0
    memory_mib: int = 0
    gpus: int = 0
    features: frozenset[str] = frozenset()
    max_minutes: int = 0  # 0: no limit


def max_array_size() -> int:
    """Return how many elements an array may have: indices end one below MaxArraySize."""
    text = ask(["scontrol", "show", "config"], patience_s=600)
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else 1001


def submit_limit() -> int:
    """Return how many jobs and array elements this user may have in the queue; 0: unknown."""
    user = getpass.getuser()
    words = ["sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=User,MaxSubmitJobs"]
    try:
        answer = ask(words, timeout_s=30)
    except SlurmError:
        return 0
    limits = re.findall(rf"^{re.escape(user)}\|(\d+)$", answer, re.MULTILINE)
    return min(map(int, limits), default=0)


def read_partitions() -> dict[str, PartitionFacts]:
    """Read the partitions of the cluster; raises `SlurmError` like `ask`."""
    words = ["sinfo", "-h", "-e", "-o", "%P|%a|%D|%c|%m|%G|%f|%l"]
    return parse_partitions(ask(words, patience_s=60))


def parse_partitions(text: str) -> dict[str, PartitionFacts]:
    """Parse what ``sinfo`` prints: one row per partition and node type, less lines of others."""
    partitions: dict[str, PartitionFacts] = {}
    for line in text.splitlines():
        values = line.strip().split("|")
        if len(values) != 8 or not values[2].isdigit():  # a banner
            continue
        name, up, count, cpus, memory, gres, features, limit = values
        bare = name.rstrip("*")
        facts = partitions.get(bare, PartitionFacts(name=bare))
        partitions[bare] = replace(
            facts,
            is_default=name.endswith("*"),
            is_up=up == "up",
            nodes=facts.nodes + _number(count),
            cpus=max(facts.cpus, _number(cpus)),
            memory_mib=max(facts.memory_mib, _number(memory)),
            gpus=max(facts.gpus, sum(map(int, re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres)))),
            features=facts.features | set(features.replace("(null)", "").split(",")) - {""},
            max_minutes=seconds(limit) // 60,
        )
    return partitions


def _number(text: str) -> int:
    digits = re.match(r"\d+", text)  # sinfo writes ``64000+`` where nodes differ
    return int(digits[0]) if digits else 0


def check_jobs(
    jobs: Mapping[str, Job], partitions: Mapping[str, PartitionFacts], where: str
) -> list[Fault]:
    """Compare jobs, by name, with the partitions of a cluster; ``where`` names the profile.

    Each fault is returned once, for the first job that has it.
    """
    faults: dict[str, Fault] = {}
    for name, job in jobs.items():
        for fault in _faults(name, job, partitions, where):
            faults.setdefault(re.sub(r" for .*", "", fault.what), fault)
    return list(faults.values())


def _faults(
    name: str, job: Job, partitions: Mapping[str, PartitionFacts], where: str
) -> Iterator[Fault]:
    default = next((facts.name for facts in partitions.values() if facts.is_default), None)
    partition = job.partition or default
    if partition is None:
        yield Fault("the cluster has no default partition", where, "set default.partition")
        return
    facts = partitions.get(partition)
    if facts is None:
        near = nearest(partition, partitions)
        hint = f" (did you mean `{near}`?)" if near else ""
        known = ", ".join(sorted(partitions))
        yield Fault(f"no partition `{partition}`{hint}", where, f"choose one of {known}")
        return
    if not facts.is_up:
        yield Fault(f"partition `{partition}` is down", where, "choose another one, or wait")
    cpus = "cpus_per_task" + (" x tasks_per_node" if job.tasks_per_node > 1 else "")
    for key, requested, limit, available in (
        ("nodes", job.nodes, facts.nodes, "has {:g} nodes"),
        (cpus, job.cpus_per_task * job.tasks_per_node, facts.cpus, "has {:g} per node"),
        ("memory_gb", job.memory_gb, facts.memory_mib / 1000, "has {:g} per node"),
        ("gpus_per_node", job.gpus_per_node, facts.gpus, "has {:g} per node"),
        ("minutes", job.minutes, facts.max_minutes, "allows {:g}"),
    ):
        if limit and requested > limit:
            what = f"`{key}` is {requested:g} for {name}, partition `{partition}` "
            yield Fault(what + available.format(limit), where, f"request at most {limit:g}")
    if job.gpus_per_node and not facts.gpus:
        what = f"`gpus_per_node` is {job.gpus_per_node} for {name}, "
        yield Fault(f"{what}partition `{partition}` has no GPUs", where, "choose another partition")
    features = set(re.findall(r"[\w.-]+", job.constraint or "")) if facts.features else set()
    for feature in sorted(features - facts.features):
        if not feature.isdigit():
            what = f"no node of partition `{partition}` has the feature `{feature}`"
            yield Fault(what, where, f"choose from {', '.join(sorted(facts.features))}")
