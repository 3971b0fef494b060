"""Is what a profile asks for there? A job that is too large would wait in the queue for ever."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dinoforge.config import nearest
from dinoforge.errors import Fault
from dinoforge.slurm.cluster.limits import PartitionFacts
from dinoforge.slurm.profile import Job

__all__ = ["check_jobs"]


def check_jobs(
    jobs: Mapping[str, Job], partitions: Mapping[str, PartitionFacts], where: str
) -> list[Fault]:
    """Compare jobs with the partitions of a cluster.

    Parameters
    ----------
    jobs : mapping
        Name (of a stage, ``gate``, ``train``) -> what it asks for.
    partitions : mapping
        As `read_partitions` gives them.
    where : str
        The profile, for the messages.

    Returns
    -------
    list of Fault
        Each said once, for the first job that meets it.
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
    wanted = job.partition or default
    if wanted is None:
        yield Fault("the cluster has no default partition", where, "set default.partition")
        return
    facts = partitions.get(wanted)
    if facts is None:
        near = nearest(wanted, partitions)
        hint = f" (did you mean `{near}`?)" if near else ""
        known = ", ".join(sorted(partitions))
        yield Fault(f"no partition `{wanted}`{hint}", where, f"choose one of {known}")
        return
    if not facts.is_up:
        yield Fault(f"partition `{wanted}` is down", where, "choose another one, or wait")
    for size in _sizes(job, facts):
        if size.most and size.asked > size.most:
            text = f"`{size.key}` is {size.asked:g} for {name}, partition `{wanted}` has "
            yield Fault(f"{text}{size.most:g}{size.where}", where, f"ask for {size.most:g} or less")
    if job.gpus_per_node and not facts.gpus:
        text = f"`gpus_per_node` is {job.gpus_per_node} for {name}, "
        yield Fault(f"{text}partition `{wanted}` has no GPUs", where, "choose another partition")
    words = set(re.findall(r"[\w.-]+", job.constraint or "")) if facts.features else set()
    for word in sorted(words - facts.features):
        if not word.isdigit():
            text = f"no node of partition `{wanted}` has the feature `{word}`"
            known = ", ".join(sorted(facts.features))
            yield Fault(text, where, f"choose from {known}")


@dataclass(frozen=True)
class _Size:
    key: str
    asked: float
    most: float
    where: str = " a node"


def _sizes(job: Job, facts: PartitionFacts) -> Iterator[_Size]:
    cpus = job.cpus_per_task * job.tasks_per_node
    key = "cpus_per_task" if job.tasks_per_node == 1 else "cpus_per_task x tasks_per_node"
    yield _Size("nodes", job.nodes, facts.nodes, "")
    yield _Size(key, cpus, facts.cpus)
    yield _Size("memory_gb", job.memory_gb, facts.memory_mib / 1000)
    yield _Size("gpus_per_node", job.gpus_per_node, facts.gpus)
    yield _Size("minutes", job.minutes, facts.max_minutes, " as its limit")
