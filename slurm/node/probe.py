"""Probes: a short job on each kind of node checks that the jobs of a run can run there.

`probe_nodes` submits it and waits. It runs

    python -P -m dinoforge.slurm.node.probe RUN NAME TOKEN DEVICE

which writes ``RUN/slurm/probe/NAME.json`` with the faults found, none if all is well.
"""

import json
import logging
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from dinoforge.config import load_config, to_plain
from dinoforge.errors import Fault, UsageError
from dinoforge.files import hash_json, write_json, write_text
from dinoforge.slurm.cluster.commands import accounted, cancel, queue, shown
from dinoforge.slurm.jobs import Jobs, Submitter
from dinoforge.slurm.outcomes import Outcome, classify
from dinoforge.slurm.profile import Job, Profile
from dinoforge.slurm.store.events import Attempt, Submission
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.logs import log_tail

__all__ = ["main", "probe_nodes"]

_log = logging.getLogger(__name__)

_PATIENCE_S = 900.0  # in the queue
_SETTLE_S = 5.0  # a file written by a node may take this long to appear here
_LOG_EVERY_S = 60.0

_SHARE_FOLDER = "choose a folder that all nodes share with out=FOLDER"


def probe_nodes(
    jobs: Jobs, submitter: Submitter, resources: Mapping[str, Job], devices: Mapping[str, str]
) -> None:
    """Probe each kind of node, once per profile.

    ``resources`` and ``devices`` map the name of each job to what it requests, and to the device
    that it computes on (none: the CPU).

    Raises
    ------
    UsageError
        If a node does not see the run folder, lacks a package or the device, or rejects the recipe;
        or if no node was free for 15 minutes.
    """
    passed = jobs.folder.probes / "passed.json"
    launch = jobs.launch
    subject = hash_json([to_plain(jobs.profile), launch.folder, launch.python, dict(devices)])
    if _read(passed).get("asked") == subject:
        return
    kinds: dict[str, tuple[Job, str]] = {}
    for name, job in resources.items():
        device = devices.get(name, "cpu")
        key = hash_json([job.partition, job.constraint, job.python, job.setup, device])
        kinds.setdefault(key, (job, device))
    names = [_submit(jobs, submitter, *kind) for kind in kinds.values()]
    try:
        faults = [fault for name in names for fault in _wait(jobs, submitter, name)]
    except BaseException:
        cancel(job.job for name in names for job in queue(name))
        raise
    if faults:
        raise UsageError(faults=list(dict.fromkeys(faults)))
    write_json(passed, {"asked": subject})


def _submit(jobs: Jobs, submitter: Submitter, job: Job, device: str) -> str:
    name, token = jobs.name("probe", 0), secrets.token_hex(16)
    write_text(jobs.folder.probes / f"{name}.token", token)
    small = replace(job, nodes=1, tasks_per_node=1, gpus_per_node=0, cpus_per_task=1)
    small = replace(small, minutes=1, memory_gb=2.0)
    if device != "cpu":  # loading CUDA takes time and memory
        small = replace(small, minutes=3, memory_gb=8.0, gpus_per_node=min(job.gpus_per_node, 1))
    small = replace(small, memory_gb=min(job.memory_gb, small.memory_gb))
    entry = Submission(name=name, kind="probe", stage="probe")
    submitter.submit(jobs.probe(name, small, token, device), entry)
    return name


def _wait(jobs: Jobs, submitter: Submitter, name: str) -> list[Fault]:
    started = logged = last_seen = time.monotonic()
    while True:
        answer = _read(jobs.folder.probes / f"{name}.json")
        if answer:
            return [Fault(*parts) for parts in answer["faults"]]
        waiting = queue(name)
        now = time.monotonic()
        if waiting:
            last_seen = now
        elif now - last_seen > _SETTLE_S:
            return [_diagnose(jobs, submitter, name)]
        if now - started > _PATIENCE_S:
            raise UsageError(
                what="no node was free for the probe in 15 minutes",
                where=str(jobs.folder.profile),
                do="rerun the command later, or set probe: false",
            )
        if waiting and now - logged > _LOG_EVERY_S:
            _log.info("the probe is pending: %s (probe: false skips it)", waiting[0].reason)
            logged = now
        time.sleep(0.2)


def _diagnose(jobs: Jobs, submitter: Submitter, name: str) -> Fault:
    """Find out why a probe ended without an answer that is visible here."""
    path = jobs.folder.log(name)
    log = log_tail(path)
    job = next((e.job for e in submitter.submissions.read() if e.name == name), "")
    rows = accounted([job]).get(job) or shown(job)
    verdict = classify(Attempt(plan=name), rows, log)
    silent = {Outcome.SETUP, Outcome.UNKNOWN, Outcome.NO_MARKER}
    if not path.exists() and verdict.outcome in silent:
        return Fault("nodes do not see the run folder", str(jobs.folder.run), _SHARE_FOLDER)
    last = next((line for line in reversed(log.splitlines()) if line.strip()), verdict.message)
    what = f"a probe on a node failed: {last.strip()}"
    return Fault(what, str(path), verdict.advice or "read the log")


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value


def main(words: Sequence[str]) -> int:
    """Check the node that this runs on."""
    folder, (name, token, device) = SlurmFolder(Path(words[0])), words[1:]
    faults = [astuple(fault) for fault in _faults(folder, name, token, device)]
    write_json(folder.probes / f"{name}.json", {"host": platform.node(), "faults": faults})
    return 0


def _faults(folder: SlurmFolder, name: str, token: str, device: str) -> Iterator[Fault]:
    node = platform.node()
    try:
        content = (folder.probes / f"{name}.token").read_text(encoding="ascii")
    except OSError:
        content = ""
    if content != token:
        what = f"node {node} sees another folder under this name"
        yield Fault(what, str(folder.run), _SHARE_FOLDER)
        return
    profile = load_config(Profile, folder.profile)
    if profile.nodes_may_submit and shutil.which("sbatch") is None:
        yield Fault(f"no sbatch on node {node}", str(folder.profile), "set nodes_may_submit: false")
    try:
        _check_recipe(folder, device)
    except UsageError as error:
        yield from error.faults
    except ImportError as error:
        what = f"node {node}: {type(error).__name__}: {error}"
        yield Fault(what, str(folder.profile), "fix `python` or `setup` of the profile")


def _check_recipe(folder: SlurmFolder, device: str) -> None:
    """Check recipe, packages and device where the jobs will run."""
    from dinoforge.device import resolve_device
    from dinoforge.stages import find_pipeline

    launch = folder.read_launch()
    if launch.pipeline:
        pipeline = find_pipeline(launch.pipeline)
        pipeline.check(load_config(pipeline.config, folder.run / "config.yaml"))
    if device != "cpu" or not launch.pipeline:
        resolve_device(device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
