"""Retry, cancel, or wait for a run on a cluster.

Each function raises a `UsageError` if there is no such run, the first two if there is no SLURM.
"""

import time
from dataclasses import replace
from pathlib import Path

from dinoforge.config.paths import quote_path
from dinoforge.errors import UsageError
from dinoforge.slurm.cluster.commands import cancel, need_slurm, queue
from dinoforge.slurm.driver import advance
from dinoforge.slurm.store.layout import SlurmFolder, State
from dinoforge.slurm.store.lease import hold_lease
from dinoforge.slurm.store.snapshot import take_snapshot
from dinoforge.stages import remove_temporary_files

__all__ = ["cancel_run", "is_live", "retry_run", "wait_for_run"]

_KILL_AFTER_S = 5.0
_GONE_WITHIN_S = 180.0


def retry_run(run: Path) -> State:
    """Restart a run that stopped, or advance it by one step where nodes may not submit.

    Earlier failures of a stopped run no longer count, and its jobs run the code as it is now.
    Raises what `advance` does.
    """
    folder = SlurmFolder(run.absolute())
    launch = folder.read_launch()
    need_slurm()
    state = folder.read_state()
    if launch.snapshot and not is_live(folder):
        folder.write_launch(replace(launch, snapshot=str(take_snapshot(folder.snapshots))))
    if state is not None and state.state in {"stopped", "cancelled"}:
        folder.submissions.retry()
    folder.write_state(State(state="running", stage=state.stage if state is not None else ""))
    return advance(folder.run)


def cancel_run(run: Path) -> int:
    """Cancel every job of a run; returns how many there were.

    A later start trusts nothing that they left: only markers prove a partition done. Raises a
    `UsageError` if a job does not end.
    """
    folder = SlurmFolder(run.absolute())
    prefix = folder.read_launch().job_prefix
    need_slurm()
    do = f"to continue: dinoforge retry {quote_path(folder.run)}"
    cancelled = State(state="cancelled", why=["cancelled by hand"], do=do)
    # The state comes first: a gate that starts meanwhile submits nothing. The lease comes later: an
    # element that does further stages may hold it for an hour.
    folder.write_state(cancelled)
    jobs = _cancel_jobs(folder, prefix)
    with hold_lease(folder.lease, jobs_are_gone=True):
        # A driver on a login node may have been in the middle of a submission.
        folder.write_state(cancelled)
        jobs |= _cancel_jobs(folder, prefix)
        submissions = folder.submissions
        for entry in submissions.read():
            if entry.job in jobs:
                submissions.outcome("cancelled", entry.name)
        remove_temporary_files(folder.run, folder.stage_folders())
    return len(jobs)


def _cancel_jobs(folder: SlurmFolder, prefix: str) -> set[str]:
    """Cancel the jobs in the queue and wait until they are gone; returns their ids."""
    jobs = {job.job for job in queue(prefix)}
    cancel(jobs)
    started, killed = time.monotonic(), False
    while left := queue(prefix):
        passed = time.monotonic() - started
        if passed > _GONE_WITHIN_S:
            raise UsageError(
                what=f"{len(left)} jobs do not end ({left[0].job} is {left[0].state})",
                where=str(folder.run),
                do="run dinoforge cancel again; a node may be down",
            )
        if not killed and passed > _KILL_AFTER_S:
            killed = True
            cancel({job.job for job in left}, kill=True)
        time.sleep(0.2)
    return jobs


def wait_for_run(run: Path) -> State:
    """Wait until no gate will advance the run any more; returns its state.

    Raises a `UsageError` if its jobs are gone and its state is still ``running``.
    """
    folder = SlurmFolder(run.absolute())
    prefix = folder.read_launch().job_prefix
    pause, times_empty = 0.5, 0
    while True:
        state = folder.read_state()
        assert state is not None, f"{run} was never submitted"
        if state.state != "running":
            return state
        times_empty = 0 if queue(prefix) else times_empty + 1
        if times_empty > 5:  # a gate writes its state before it ends; network files come late
            raise UsageError(
                what="no job of this run is in the queue, and it is not finished",
                where=str(run),
                do=f"dinoforge retry {quote_path(run)}",
            )
        time.sleep(pause)
        pause = min(1.5 * pause, 5.0)


def is_live(folder: SlurmFolder) -> bool:
    """Return whether jobs of the run are in the queue and will still do something."""
    if not (folder.root / "launch.json").is_file():
        return False
    queued = queue(folder.read_launch().job_prefix, patience_s=60)
    state = folder.read_state()
    if state is None or state.state == "running":
        return bool(queued)
    # A gate that has written how the run ended is about to exit.
    gates = {job.name for job in folder.submissions.read() if job.kind == "gate"}
    return any(job.name not in gates and job.state != "COMPLETING" for job in queued)
