"""Profiles: layers of blocks, faults, and the built-in ones."""

import re

import pytest

from dinoforge.config import list_recipes
from dinoforge.errors import UsageError
from dinoforge.slurm.profile import Job, load_profile


@pytest.fixture
def load(tmp_path):
    def from_text(text):
        path = tmp_path / "profile.yaml"
        path.write_text(text)
        return load_profile(str(path))

    return from_text


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
    ("text", "reported"),
    [
        ("default: {partitoin: cpu}", r"unknown key `default.partitoin` \(did you mean"),
        ("stages: {embed: {memroy_gb: 4}}", r"memroy_gb.*did you mean"),
        ("defaults: {partition: cpu}", r"unknown key `defaults"),
        ("default: {minutes: 12:00:00}", "`default.minutes` is 43200|minutes"),
        ("default: {partition: no}", "needs text"),
        ("default: {nodes: 0}", "`default.nodes` is 0"),
        ("stages: {embed: {cpus_per_task: -1}}", "`stages.embed.cpus_per_task` is -1"),
        ("default: {sbatch: {mem: 4G}}", "`default.sbatch.mem` is set by dinoforge"),
        ('default: {partition: "a\\nb"}', "`default.partition` is 'a.*without a line break"),
        ('gpu: {python: "a\\nb"}', "`gpu.python` is 'a.*without a line break"),
        ('default: {sbatch: {comment: "x\\ny"}}', "`default.sbatch.comment` is 'x.*a line break"),
        ("default: {sbatch: {comment: {a: b}}}", "`default.sbatch.comment` is {'a': 'b'} - .*text"),
        ("stages: {a: {sbatch: {gres: [a]}}}", r"`stages.a.sbatch.gres` is \['a'\] - .*number"),
        ('default: {sbatch: {"x\\ny": 1}}', r"`default.sbatch` holds 'x\\ny', which is no option"),
        ("default: {sbatch: {--comment=x y: 1}}", "`default.sbatch` holds '--comment=x y'"),
        ("default: {sbatch: [a]}", r"`default.sbatch` got \['a'\], need dict"),
        ("default: {setup: {a: b}}", r"`default.setup` got {'a': 'b'}, need list\[str\]"),
        ("default: [1]", r"`default` got \[1\], need {partition, account"),
        ("max_attempts: 0", "`max_attempts` is 0"),
        ("default: {memory_gb: lots}", "memory_gb` got 'lots'"),
    ],
)
def test_a_mistake_in_a_profile_is_named(load, text, reported):
    if "12:00:00" in text:
        assert load(text).default.minutes == 43200  # YAML's own; the cluster's limit refuses it
        return
    with pytest.raises(UsageError, match=reported):
        load(text)


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean `h100`.*one of cpu, h100, preemptible"):
        load_profile("h1000")


@pytest.mark.parametrize("name", list_recipes("slurm"))
def test_built_in_profiles_load_and_open_with_the_lines_that_a_reader_needs(name):
    load_profile(name)
    lines = list_recipes("slurm")[name].read_text().splitlines()[:5]
    reported = dict(re.fullmatch(r"# (\w+):\s+(\S.*)", line).groups() for line in lines)
    assert tuple(reported) == ("profile", "command", "needs", "expect", "source")
    assert f"--on slurm:{name}" in reported["command"]
