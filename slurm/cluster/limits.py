"""What a cluster gives: array size, queue room, and the largest node of each partition."""

import getpass
import re
from dataclasses import dataclass, replace

from dinoforge.slurm.cluster.commands import SlurmError, ask, ask_patiently

__all__ = [
    "PartitionFacts",
    "max_array_size",
    "parse_partitions",
    "read_partitions",
    "submit_limit",
]


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
    """Ask how many elements an array may have: indices end one below MaxArraySize."""
    text = ask_patiently(["scontrol", "show", "config"])
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 1001


def submit_limit() -> int:
    """Jobs that this user may have in the queue, an element counting as one; 0: no limit known."""
    user = getpass.getuser()
    words = ["sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=MaxSubmitJobs"]
    try:
        answer = ask(words, timeout_s=30)
    except SlurmError:
        return 0
    return min((int(line) for line in answer.split() if line.isdigit()), default=0)


def read_partitions() -> dict[str, PartitionFacts]:
    """Ask SLURM for its partitions.

    Raises
    ------
    SlurmUnavailableError
        If it does not answer.
    """
    nodes = ask_patiently(["sinfo", "-h", "-e", "-o", "%P|%a|%D|%c|%m|%G|%f"], patience_s=60)
    limits = ask_patiently(["scontrol", "-o", "show", "partition"], patience_s=60)
    return parse_partitions(nodes, limits)


def parse_partitions(nodes: str, limits: str) -> dict[str, PartitionFacts]:
    """Parse ``sinfo`` (a row a partition and kind of node) and ``scontrol -o show partition``."""
    found: dict[str, PartitionFacts] = {}
    for line in nodes.splitlines():
        name, up, count, cpus, memory, gres, features = line.strip().split("|")
        bare = name.rstrip("*")
        old = found.get(bare, PartitionFacts(name=bare))
        words = [] if features == "(null)" else features.split(",")
        found[bare] = replace(
            old,
            is_default=name.endswith("*"),
            is_up=up == "up",
            nodes=old.nodes + _number(count),
            cpus=max(old.cpus, _number(cpus)),
            memory_mib=max(old.memory_mib, _number(memory)),
            gpus=max(old.gpus, _gpus(gres)),
            features=old.features | set(words),
        )
    for line in limits.splitlines():
        values = dict(re.findall(r"(\w+)=(\S*)", line))
        name = values.get("PartitionName", "")
        if name in found:
            found[name] = replace(found[name], max_minutes=_minutes(values.get("MaxTime", "")))
    return found


def _number(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits[0]) if digits else 0


def _gpus(text: str) -> int:
    return sum(int(count) for count in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", text))


def _minutes(text: str) -> int:
    """Read ``7-00:00:00`` or ``12:00:00``; 0 for UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if found is None:
        return 0
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (24 * days + hours) * 60 + minutes
