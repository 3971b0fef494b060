"""Profiles: layers, faults, the ones that come along, and what becomes of them in sbatch's text."""

import os
import re

import pytest

from dinoforge.config import list_recipes
from dinoforge.errors import UsageError
from dinoforge.slurm.cluster.commands import clean_environment, one_line
from dinoforge.slurm.cluster.executor import sbatch_text
from dinoforge.slurm.cluster.limits import check_jobs, parse_partitions
from dinoforge.slurm.jobs import Jobs
from dinoforge.slurm.profile import Job, load_profile
from dinoforge.slurm.store.layout import Launch, SlurmFolder

# sinfo -h -e -o '%P|%a|%D|%c|%m|%G|%f' and scontrol -o show partition
SINFO = """\
cpu*|up|4|4|8000|gpu:fake:2|(null)
cpu*|up|2|16|64000|(null)|skylake,big
gpu|up|3|96|2000000|gpu:h100:8(S:0-1)|hbm
old|down|1|4|8000|(null)|(null)
"""
SCONTROL = """\
PartitionName=cpu AllowGroups=ALL Default=YES MaxTime=UNLIMITED Nodes=node[1-4]
PartitionName=gpu AllowGroups=ALL Default=NO MaxTime=2-00:00:00 Nodes=node[5-7]
PartitionName=old AllowGroups=ALL Default=NO MaxTime=01:00:00 Nodes=node8
"""
PARTITIONS = parse_partitions(SINFO, SCONTROL)


@pytest.fixture
def load(tmp_path):
    def from_text(text):
        path = tmp_path / "profile.yaml"
        path.write_text(text)
        return load_profile(str(path))

    return from_text


def faults(**asked):
    return [str(fault) for fault in check_jobs({"embed": Job(**asked)}, PARTITIONS, "p.yaml")]


def test_blocks_lie_over_each_other(load):
    profile = load("""\
default: {partition: cpu, memory_gb: 4, minutes: 60, account: lab}
gpu: {partition: gpu, gpus_per_node: 1}
gate: {memory_gb: 1}
stages: {embed: {minutes: 240, setup: [module load cuda]}}
""")
    embed = profile.job("embed", "gpu")
    assert (embed.partition, embed.gpus_per_node, embed.minutes) == ("gpu", 1, 240)
    assert (embed.memory_gb, embed.account, embed.setup) == (4, "lab", ["module load cuda"])
    assert profile.job("filter", "cpu") == Job(partition="cpu", memory_gb=4, account="lab")
    gate = profile.job("gate", "gate")
    assert (gate.partition, gate.memory_gb, gate.minutes, gate.gpus_per_node) == ("cpu", 1, 30, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("default: {partitoin: cpu}", r"unknown key `default.partitoin` \(did you mean"),
        ("stages: {embed: {memroy_gb: 4}}", r"memroy_gb.*did you mean"),
        ("defaults: {partition: cpu}", r"unknown key `defaults"),
        ("default: {minutes: 12:00:00}", "`default.minutes` is 43200|minutes"),
        ("default: {partition: no}", "needs text"),
        ("default: {nodes: 0}", "`default.nodes` is 0"),
        ("stages: {embed: {cpus_per_task: -1}}", "`stages.embed.cpus_per_task` is -1"),
        ("default: {sbatch: {mem: 4G}}", "`default.sbatch.mem` is set by dinoforge"),
        ("max_attempts: 0", "`max_attempts` is 0"),
        ("default: {memory_gb: lots}", "memory_gb` got 'lots'"),
    ],
)
def test_a_mistake_in_a_profile_is_named(load, text, told):
    if "12:00:00" in text:
        assert load(text).default.minutes == 43200  # YAML's own; the cluster's limit refuses it
        return
    with pytest.raises(UsageError, match=told):
        load(text)


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean `h100`.*one of cpu, h100, preemptible"):
        load_profile("h1000")


@pytest.mark.parametrize("name", list_recipes("slurm"))
def test_profiles_that_come_along_load_and_open_with_the_lines_that_a_reader_needs(name):
    load_profile(name)
    lines = list_recipes("slurm")[name].read_text().splitlines()[:5]
    told = dict(re.fullmatch(r"# (\w+):\s+(\S.*)", line).groups() for line in lines)
    assert tuple(told) == ("profile", "command", "needs", "expect", "source")
    assert f"--on slurm:{name}" in told["command"]


def test_partitions_are_read_with_their_largest_node():
    cpu, gpu = PARTITIONS["cpu"], PARTITIONS["gpu"]
    assert (cpu.nodes, cpu.cpus, cpu.memory_mib, cpu.gpus, cpu.max_minutes) == (6, 16, 64000, 2, 0)
    assert (gpu.gpus, gpu.max_minutes, gpu.is_default, cpu.is_default) == (8, 2880, False, True)


@pytest.mark.parametrize(
    ("asked", "told"),
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
def test_what_the_cluster_does_not_have_is_told_before_it_waits_for_ever(asked, told):
    (fault,) = faults(**asked)
    assert re.search(told, fault), fault


def test_what_the_cluster_has_is_no_fault():
    assert faults() == []
    assert faults(partition="gpu", nodes=3, tasks_per_node=8, gpus_per_node=8, minutes=2880) == []


@pytest.fixture
def requests(load, tmp_path):
    profile = load("""\
default:
  partition: cpu
  setup: [module load python, "export X='1 2'"]
  sbatch: {reservation: night, exclusive: true, nice: null}
stages: {train: {nodes: 2, tasks_per_node: 8, gpus_per_node: 8, python: podman exec box python3}}
signal_before_s: 300
""")
    launch = Launch(
        run_id="run-1", command="train", pipeline="", device="cuda", folder="/home/me",
        python_path=["/plug ins"], python="/opt/py thon/python", snapshot="/snap",
    )  # fmt: skip
    return Jobs(SlurmFolder(tmp_path / "run"), launch, profile)


def options(text):
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE)
    return dict(found)


def test_an_array_is_written_with_everything_that_keeps_it_alive(requests):
    job = requests.profile.job("embed", "cpu")
    text = sbatch_text(requests.array("df-run-1-embed-0-abcd", job, 12))
    said = options(text)
    assert said["array"] == "0-11%12"
    assert said["job-name"] == "df-run-1-embed-0-abcd"
    assert said["chdir"] == "/home/me"
    assert said["output"].endswith("/run/slurm/log/df-run-1-embed-0-abcd_%a.out")
    assert (said["open-mode"], said["requeue"], said["mem"]) == ("append", "", "4000M")
    assert (said["reservation"], said["exclusive"]) == ("night", "")
    assert "nice" not in said
    assert "wckey" not in said
    lines = text.splitlines()
    assert lines.index("module load python") < lines.index("export PYTHONPATH='/snap:/plug ins'")
    assert "export X='1 2'" in lines
    assert lines[-1].startswith(
        "env --ignore-signal=USR2 '/opt/py thon/python' -P -u -m dinoforge.slurm.node.worker "
    )


def test_a_gate_waits_for_all_arrays_however_they_end(requests):
    said = options(sbatch_text(requests.gate("df-gate", ["12", "13"])))
    assert said["dependency"] == "afterany:12:13"
    assert said["kill-on-invalid-dep"] == "yes"


def test_ranks_run_under_srun_one_log_a_rank_and_end_together(requests):
    job = requests.profile.job("train", "gpu")
    text = sbatch_text(requests.ranks("df-train", job))
    said = options(text)
    assert (said["nodes"], said["ntasks-per-node"], said["gpus-per-node"]) == ("2", "8", "8")
    assert said["signal"] == "USR2@300"
    line = text.rstrip().splitlines()[-1]
    assert line.startswith("srun ")
    assert "--kill-on-bad-exit=1" in line
    assert "df-train_rank%t.out" in line
    assert "env --block-signal=USR1,USR2,TERM podman exec box python3 -P -u -m " in line
    assert " dinoforge.slurm.node.rank " in line


def test_jobs_inherit_nothing_of_the_job_that_submits_them_but_where_the_cluster_is():
    given = {
        "SLURM_CONF": "/etc/x", "SLURM_CLUSTERS": "a", "SLURM_MEM_PER_NODE": "4",
        "SBATCH_PARTITION": "x", "SLURM_CPU_BIND": "none", "CUDA_VISIBLE_DEVICES": "0",
        "HOME": "/root", "SUBMITIT_EXECUTOR": "slurm",
    }  # fmt: skip
    assert clean_environment(given) == {
        "SLURM_CONF": "/etc/x", "SLURM_CLUSTERS": "a", "HOME": "/root",
    }  # fmt: skip
    assert "SLURM_JOB_ID" not in clean_environment(os.environ | {"SLURM_JOB_ID": "1"})


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "sbatch: error: Invalid account\nsbatch: error: Batch job submission failed",
            "Invalid account; Batch job submission failed",
        ),
        ("sinfo: fatal: Could not establish a configuration source\n", "Could not establish a"),
        ("slurm_load_partitions: Unable to contact", "slurm_load_partitions: Unable to contact"),
    ],
)
def test_words_of_slurm_fit_in_a_line_without_its_prefixes(said, line):
    assert one_line(said).startswith(line)
    assert "error: " not in one_line(said)
