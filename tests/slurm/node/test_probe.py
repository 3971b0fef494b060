"""Probes: which jobs check the nodes, and what the node reports."""

import json
from dataclasses import replace

import pytest
import toys

from dinoforge.config import config_yaml, load_config
from dinoforge.errors import UsageError
from dinoforge.files import write_json, write_text
from dinoforge.slurm.jobs import Jobs
from dinoforge.slurm.node import probe
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.store.layout import Launch, SlurmFolder

GPU = Job(device="cuda", partition="gpu", gpus_per_node=8, cpus_per_task=12, memory_gb=120)
RESOURCES = [Job(minutes=60), GPU, replace(GPU, minutes=240), Job(minutes=30)]


@pytest.fixture
def folder(tmp_path):
    folder = SlurmFolder(tmp_path / "run")
    launch = Launch(
        run_id="run-1", command="curate", pipeline="toys:PIPELINE", device="cuda", folder="/",
        python_path=[], python="python",
    )  # fmt: skip
    folder.write_launch(launch)
    write_text(folder.profile, "nodes_may_submit: false\n")
    write_text(folder.run / "config.yaml", config_yaml(toys.ToyConfig(out=str(folder.run))))
    return folder


@pytest.fixture
def jobs(folder):
    return Jobs(folder, folder.read_launch(), load_config(Profile, folder.profile))


class Nodes:
    """Answers each probe at once."""

    def __init__(self, folder, faults=()):
        self.folder, self.faults, self.requests = folder, faults, []

    def submit(self, request, entry):
        self.requests.append(request)
        write_json(self.folder.probes / f"{entry.name}.json", {"faults": self.faults})


def test_each_kind_of_node_is_probed_once_and_gpu_nodes_with_one_gpu(jobs):
    nodes = Nodes(jobs.folder)
    probe.probe_nodes(jobs, nodes, RESOURCES)
    cpu, gpu = (request.job for request in nodes.requests)
    assert (cpu.partition, cpu.gpus_per_node, cpu.memory_gb, cpu.minutes) == (None, 0, 2, 1)
    assert (gpu.partition, gpu.gpus_per_node, gpu.cpus_per_task, gpu.nodes) == ("gpu", 1, 1, 1)
    assert [request.command[-1] for request in nodes.requests] == ["cpu", "cuda"]
    probe.probe_nodes(jobs, nodes, RESOURCES)
    assert len(nodes.requests) == 2  # passed before
    probe.probe_nodes(jobs, nodes, [*RESOURCES, replace(GPU, device="auto")])
    assert len(nodes.requests) > 2


def test_faults_of_a_node_are_reported_once(jobs):
    nodes = Nodes(jobs.folder, [["no sbatch", "here", "fix it"]])
    with pytest.raises(UsageError) as raised:
        probe.probe_nodes(jobs, nodes, RESOURCES)
    assert [str(fault) for fault in raised.value.faults] == ["no sbatch - here - fix it"]


def run_probe(folder, device, name="df-run-1-probe"):
    assert probe.main(folder.run, name, device) == 0
    return json.loads((folder.probes / f"{name}.json").read_text())["faults"]


def test_a_node_checks_the_device_that_its_jobs_compute_on(folder):
    write_text(folder.scripts / "df-run-1-probe.sh", "")
    assert run_probe(folder, "cpu") == []
    (fault,) = run_probe(folder, "cuda:99")
    assert fault[0] == "device `cuda:99` cannot be used"


def test_a_node_that_sees_another_folder_reports_it(folder):
    (fault,) = run_probe(folder, "cpu", name="df-run-1-other")
    assert "sees another folder under this name" in fault[0]
