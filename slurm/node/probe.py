"""Probes: a short job on each kind of node checks that the jobs of a run can run there.

`probe_nodes` submits it and waits. It runs

    python -P -m dinoforge.slurm.node.probe RUN NAME DEVICE

which writes ``RUN/slurm/probe/NAME.json`` with the faults found, none if all is well.
"""

import json
import logging
import platform
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import astuple, replace
from pathlib import Path

from dinoforge.config import load_config, to_plain
from dinoforge.errors import Fault, UsageError
from dinoforge.files import hash_json, write_json
from dinoforge.slurm.cluster.commands import accounted, cancel, queue, shown
from dinoforge.slurm.jobs import Jobs, Submitter
from dinoforge.slurm.outcomes import Outcome, classify
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.store.events import Attempt, Submission
from dinoforge.slurm.store.layout import SlurmFolder, log_tail

__all__ = ["main", "probe_nodes"]

_log = logging.getLogger(__name__)

_PATIENCE_S = 900.0  # in the queue
_SETTLE_S = 5.0  # a file written by a node may take this long to appear here

_SHARE_FOLDER = "choose a folder that all nodes share with out=FOLDER"


def probe_nodes(jobs: Jobs, submitter: Submitter, resources: Collection[Job]) -> None:
    """Probe each kind of node that jobs request, once per profile.

    Raises `UsageError` if a node does not see the run folder, lacks a package or the device, or
    rejects the recipe; or if no node was free for 15 minutes.
    """
    launch = jobs.launch
    devices = sorted({job.device for job in resources})
    subject = hash_json([to_plain(jobs.profile), launch.folder, launch.python, devices])
    passed = jobs.folder.probes / f"{subject}.passed"
    if passed.exists():
        return
    kinds: dict[str, Job] = {}
    for job in resources:
        key = hash_json([job.partition, job.constraint, job.python, job.setup, job.device])
        kinds.setdefault(key, job)
    probes = [_submit(jobs, submitter, job) for job in kinds.values()]
    try:
        faults = [fault for name, job_id in probes for fault in _wait(jobs.folder, name, job_id)]
    except BaseException:
        cancel(job_id for name, job_id in probes if queue(name))
        raise
    if faults:
        raise UsageError(faults=list(dict.fromkeys(faults)))
    passed.touch()


def _submit(jobs: Jobs, submitter: Submitter, job: Job) -> tuple[str, str]:
    """Submit the probe of one kind of node; returns its name and its id."""
    minutes, memory_gb, gpus = 1, 2.0, 0
    if job.device != "cpu":  # loading CUDA takes time and memory
        minutes, memory_gb, gpus = 3, 8.0, min(job.gpus_per_node, 1)
    memory_gb = min(job.memory_gb, memory_gb)
    job = replace(job, nodes=1, tasks_per_node=1, cpus_per_task=1, gpus_per_node=gpus)
    name = jobs.name("probe", 0)
    request = jobs.probe(name, replace(job, minutes=minutes, memory_gb=memory_gb))
    return name, submitter.submit(request, Submission(name=name, kind="probe", stage="probe"))


def _wait(folder: SlurmFolder, name: str, job_id: str) -> list[Fault]:
    """Wait for the answer of a probe: the faults of its node."""
    answer = folder.probes / f"{name}.json"
    started = logged = last_seen = time.monotonic()
    while not answer.exists():
        waiting, now = queue(name), time.monotonic()
        if waiting:
            last_seen = now
        elif now - last_seen > _SETTLE_S:
            return [_diagnose(folder, name, job_id)]
        if now - started > _PATIENCE_S:
            what = "no node was free for the probe in 15 minutes"
            do = "rerun the command later, or set probe: false"
            raise UsageError(what=what, where=str(folder.profile), do=do)
        if waiting and now - logged > 60.0:
            _log.info("the probe is pending: %s (probe: false skips it)", waiting[0].reason)
            logged = now
        time.sleep(0.2)
    return [Fault(*parts) for parts in json.loads(answer.read_text(encoding="utf-8"))["faults"]]


def _diagnose(folder: SlurmFolder, name: str, job_id: str) -> Fault:
    """Find out why a probe ended without an answer that is visible here."""
    path = folder.log(name)
    log = log_tail(path)
    rows = accounted([job_id]).get(job_id) or shown(job_id)
    verdict = classify(Attempt(plan=name), rows, log)
    silent = {Outcome.SETUP, Outcome.UNKNOWN, Outcome.NO_MARKER}
    if not path.exists() and verdict.outcome in silent:
        return Fault("nodes do not see the run folder", str(folder.run), _SHARE_FOLDER)
    last = (log.strip() or verdict.message).rpartition("\n")[2].strip()
    return Fault(f"a probe on a node failed: {last}", str(path), verdict.advice or "read the log")


def main(run: Path, name: str, device: str) -> int:
    """Check the node that this runs on."""
    folder = SlurmFolder(run)
    faults = [astuple(fault) for fault in _faults(folder, name, device)]
    write_json(folder.probes / f"{name}.json", {"host": platform.node(), "faults": faults})
    return 0


def _faults(folder: SlurmFolder, name: str, device: str) -> Iterator[Fault]:
    node = platform.node()
    if not (folder.scripts / f"{name}.sh").is_file():  # written before the job was submitted
        what = f"node {node} sees another folder under this name"
        yield Fault(what, str(folder.run), _SHARE_FOLDER)
        return
    profile = load_config(Profile, folder.profile)
    if profile.nodes_may_submit and shutil.which("sbatch") is None:
        yield Fault(f"no sbatch on node {node}", str(folder.profile), "set nodes_may_submit: false")
    try:
        # Late: packages may be missing here, which is reported.
        from dinoforge.device import resolve_device
        from dinoforge.stages import find_pipeline

        launch = folder.read_launch()
        if launch.pipeline:
            pipeline = find_pipeline(launch.pipeline)
            pipeline.check(load_config(pipeline.config, folder.run / "config.yaml"))
        if device != "cpu" or not launch.pipeline:
            resolve_device(device)
    except UsageError as error:
        yield from error.faults
    except ImportError as error:
        what = f"node {node}: {type(error).__name__}: {error}"
        yield Fault(what, str(folder.profile), "fix `python` or `setup` of the profile")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
