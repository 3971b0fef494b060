"""Partitions of a cluster, and jobs that none of them can run."""

import re

import pytest

from dinoforge.slurm.cluster.limits import check_jobs, parse_partitions
from dinoforge.slurm.profile import Job

# sinfo -h -e -o '%P|%a|%D|%c|%m|%G|%f|%l'
SINFO = """\
cpu*|up|4|4|8000|gpu:fake:2|(null)|infinite
cpu*|up|2|16|64000|(null)|skylake,big|infinite
gpu|up|3|96|2000000|gpu:h100:8(S:0-1)|hbm|2-00:00:00
old|down|1|4|8000|(null)|(null)|1:00:00
"""
PARTITIONS = parse_partitions(SINFO)


def faults(**asked):
    return [str(fault) for fault in check_jobs({"embed": Job(**asked)}, PARTITIONS, "p.yaml")]


def test_partitions_are_read_with_their_largest_node():
    cpu, gpu = PARTITIONS["cpu"], PARTITIONS["gpu"]
    assert (cpu.nodes, cpu.cpus, cpu.memory_mib, cpu.gpus, cpu.max_minutes) == (6, 16, 64000, 2, 0)
    assert (gpu.gpus, gpu.max_minutes, gpu.is_default, cpu.is_default) == (8, 2880, False, True)
    assert PARTITIONS["old"].max_minutes == 60


def test_a_banner_among_the_partitions_is_skipped():
    banner = "*** maintenance | on 24.12. ***\n\na|b|c|d|e|f|g|h\n"
    assert parse_partitions(banner + SINFO) == PARTITIONS


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"partition": "gpuu"}, r"no partition `gpuu` \(did you mean `gpu`\?\)"),
        ({"partition": "old"}, "partition `old` is down"),
        ({"memory_gb": 65}, "`memory_gb` is 65 for embed, partition `cpu` has 64 per node"),
        ({"cpus_per_task": 17}, "`cpus_per_task` is 17"),
        ({"nodes": 9}, "`nodes` is 9 for embed, partition `cpu` has 6"),
        ({"partition": "gpu", "gpus_per_node": 9}, "`gpus_per_node` is 9"),
        ({"partition": "gpu", "minutes": 2881}, "`minutes` is 2881 .* allows 2880"),
        (
            {"partition": "gpu", "tasks_per_node": 8, "cpus_per_task": 13},
            "x tasks_per_node` is 104",
        ),
        ({"partition": "gpu", "constraint": "hbn"}, "has the feature `hbn` .* choose from hbm"),
    ],
)
def test_a_job_that_no_node_can_run_is_a_fault(asked, text):
    (fault,) = faults(**asked)
    assert re.search(text, fault), fault


def test_what_the_cluster_has_is_no_fault():
    assert faults() == []
    assert faults(partition="gpu", nodes=3, tasks_per_node=8, gpus_per_node=8, minutes=2880) == []
