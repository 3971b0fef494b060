"""Ask nodes before anything is submitted: one short job for each kind of node of the profile."""

import json
import logging
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinoforge.config import to_plain
from dinoforge.errors import Fault, UsageError
from dinoforge.files import hash_json, write_json, write_text
from dinoforge.slurm.cluster.commands import accounted, cancel, queue, shown
from dinoforge.slurm.jobs import Jobs
from dinoforge.slurm.outcomes import Evidence, Outcome, classify
from dinoforge.slurm.profile import Job
from dinoforge.slurm.store.logs import log_tail
from dinoforge.slurm.store.submissions import Submission
from dinoforge.slurm.submission import Submitter

__all__ = ["probe_nodes"]

_log = logging.getLogger(__name__)

_PATIENCE_S = 900.0  # in the queue
_SETTLE_S = 5.0  # a file that a node wrote may take this long to be seen here
_SPOKEN_EVERY_S = 60.0


def probe_nodes(requests: Jobs, submitter: Submitter, jobs: Mapping[str, Job]) -> None:
    """Run a probe on each kind of node; once for a profile.

    Raises
    ------
    UsageError
        If a node does not see the run folder, lacks a package, or refuses the recipe; or if no
        node was free for 15 minutes.
    """
    folder = requests.folder
    known = folder.probes / "passed.json"
    asked = hash_json([to_plain(requests.profile), requests.launch.folder, requests.launch.python])
    if _read(known).get("asked") == asked:
        return
    names = [_send(requests, submitter, job) for job in _kinds(jobs).values()]
    try:
        faults = [fault for name in names for fault in _answer(requests, submitter, name)]
    except BaseException:
        cancel(job.job for name in names for job in queue(name))
        raise
    if faults:
        raise UsageError(faults=list(dict.fromkeys(faults)))
    write_json(known, {"asked": asked})


def _kinds(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """One job of each kind of node and environment."""
    kinds = {}
    for job in jobs.values():
        kinds[hash_json([job.partition, job.constraint, job.python, job.setup])] = job
    return kinds


def _send(requests: Jobs, submitter: Submitter, job: Job) -> str:
    name, token = requests.name("probe", 0), secrets.token_hex(16)
    write_text(requests.folder.probes / f"{name}.token", token)
    entry = Submission(name=name, kind="probe", stage="probe")
    submitter.submit(requests.probe(name, job, token), entry)
    return name


def _answer(requests: Jobs, submitter: Submitter, name: str) -> list[Fault]:
    path = requests.folder.probes / f"{name}.json"
    started = spoken = time.monotonic()
    gone_since: float | None = None
    while True:
        answer = _read(path)
        if answer:
            return [Fault(*words) for words in answer["faults"]]
        waiting = queue(name)
        passed = time.monotonic()
        if waiting:
            gone_since = None
        elif gone_since is None:
            gone_since = passed
        elif passed - gone_since > _SETTLE_S:
            return [_why_not(requests, submitter, name)]
        if passed - started > _PATIENCE_S:
            raise UsageError(
                what="no node was free for the probe in 15 minutes",
                where=str(requests.folder.profile),
                do="start the command later, or set probe: false",
            )
        if waiting and passed - spoken > _SPOKEN_EVERY_S:
            _log.info("the probe waits: %s (probe: false leaves it out)", waiting[0].reason)
            spoken = passed
        time.sleep(0.2)


def _why_not(requests: Jobs, submitter: Submitter, name: str) -> Fault:
    """Tell why a probe ended without an answer that we can read."""
    folder = requests.folder
    log = log_tail(folder.log(name))
    job = next((e.job for e in submitter.submissions.read() if e.name == name), "")
    rows = accounted([job]).get(job) or shown(job)
    verdict = classify(Evidence(started=False, rows=rows, log=log))
    unseen = not folder.log(name).exists()
    if unseen and verdict.outcome in {Outcome.SETUP, Outcome.UNKNOWN, Outcome.NO_MARKER}:
        return Fault(
            "nodes do not see the run folder",
            str(folder.run),
            "choose a folder that all nodes share with out=FOLDER",
        )
    last = next((line for line in reversed(log.splitlines()) if line.strip()), verdict.message)
    return Fault(
        f"a probe on a node failed: {last.strip()}",
        str(folder.log(name)),
        verdict.advice or "read the log",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value
