"""What a person does to a run on a cluster: wait for it, start it again, end it, read its logs."""

import time
from collections.abc import Callable
from pathlib import Path

from dinoforge.errors import UsageError
from dinoforge.slurm.cluster.commands import Queued, cancel, need_slurm, queue
from dinoforge.slurm.driver import advance
from dinoforge.slurm.store.attempts import read_attempts
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.layout import SlurmFolder, State
from dinoforge.slurm.store.lease import hold_lease
from dinoforge.slurm.store.submissions import Submissions
from dinoforge.slurm.submit import is_live, refresh_code
from dinoforge.stages import remove_temporary_files

__all__ = ["cancel_run", "find_logs", "retry_run", "wait_for_run"]

_KILL_AFTER_S = 5.0
_GONE_WITHIN_S = 180.0


def retry_run(run: Path) -> State:
    """Start a run again that stopped, or take it one step further where nodes may not submit.

    What failed before counts no more, and jobs run the code as it is now; but of a run that only
    waited to be taken on, everything counts on.

    Raises
    ------
    UsageError
        If there is no such run, no SLURM here, or what the driver finds.
    """
    folder = SlurmFolder(run.absolute())
    folder.read_launch()
    need_slurm()
    state = folder.read_state()
    if not is_live(folder):
        refresh_code(folder)
    if state is not None and state.state in {"stopped", "cancelled"}:
        Submissions(folder.submissions).retry()
    folder.write_state(State(state="running", stage=state.stage if state is not None else ""))
    return advance(folder.run)


def cancel_run(run: Path) -> int:
    """End every job of a run; returns how many there were.

    Nothing is left that a later start would trust: partitions count by their markers alone.

    Raises
    ------
    UsageError
        If there is no such run, no SLURM here, or a job does not end.
    """
    folder = SlurmFolder(run.absolute())
    launch = folder.read_launch()
    need_slurm()
    prefix = launch.job_prefix
    do = f"to go on: dinoforge retry {folder.run}"
    cancelled = State(state="cancelled", why=["cancelled by hand"], do=do)
    # First the word, then the deed: a gate that starts meanwhile submits nothing. No lease yet: an
    # element that walks on may hold it for an hour.
    folder.write_state(cancelled)
    jobs = _end_all(folder, prefix)
    with hold_lease(folder.lease, jobs_are_gone=True):
        # A driver on a login node may have been in the middle of a submission.
        folder.write_state(cancelled)
        jobs |= _end_all(folder, prefix)
        submissions = Submissions(folder.submissions)
        for entry in submissions.read():
            if entry.job in jobs:
                submissions.outcome("cancelled", entry.name)
        for path in folder.run.iterdir():
            if path.is_dir() and path != folder.root:
                remove_temporary_files(path)
    return len(jobs)


def _end_all(folder: SlurmFolder, prefix: str) -> set[str]:
    jobs = {job.job for job in queue(prefix)}
    cancel(jobs)
    _wait_until_gone(folder, prefix)
    return jobs


def _wait_until_gone(folder: SlurmFolder, prefix: str) -> None:
    started = time.monotonic()
    killed = False
    while left := queue(prefix):
        passed = time.monotonic() - started
        if passed > _GONE_WITHIN_S:
            raise UsageError(
                what=f"{len(left)} jobs do not end ({left[0].job} is {left[0].state})",
                where=str(folder.run),
                do="start dinoforge cancel again; a node may be gone",
            )
        if not killed and passed > _KILL_AFTER_S:
            killed = True
            cancel({job.job for job in left}, kill=True)
        time.sleep(0.2)


def wait_for_run(run: Path, told: Callable[[State], None]) -> State:
    """Wait until no gate will act any more; ``told`` hears every change.

    Raises
    ------
    UsageError
        If the run's jobs are gone and nobody said how it ended.
    """
    folder = SlurmFolder(run.absolute())
    prefix = folder.read_launch().job_prefix
    before, pause, seen_empty = None, 0.5, 0
    while True:
        state = folder.read_state()
        assert state is not None, f"{run} was never submitted"
        if state != before:
            told(state)
            before, pause = state, 0.5
        if state.state != "running":
            return state
        jobs: list[Queued] = queue(prefix)
        seen_empty = 0 if jobs else seen_empty + 1
        if seen_empty > 5:  # a gate writes its state before it ends; files come late over networks
            raise UsageError(
                what="no job of this run is in the queue, and it is not finished",
                where=str(run),
                do=f"dinoforge retry {run}",
            )
        time.sleep(pause)
        pause = min(1.5 * pause, 15.0)


def find_logs(run: Path, partition: str = "") -> list[Path]:
    """Find logs: of one partition (``12`` or ``square:12``), or of what failed, or the run's own.

    Raises
    ------
    UsageError
        If there is no such run, or the partition was never started.
    """
    from dinoforge.slurm.status import read_status

    folder = SlurmFolder(run.absolute())
    launch = folder.read_launch()
    if not partition:
        failed = [Path(failure.log) for failure in read_status(folder.run).failures]
        own = folder.run / "log" / "rank-00000.txt"
        return [path for path in (own, *dict.fromkeys(failed)) if path.is_file()]
    stage, _, number = partition.rpartition(":")
    state = folder.read_state()
    stage = stage or (state.stage if state is not None else "")
    stage = stage or next(iter(launch.stages), launch.command)
    found = []
    if number.isdigit():
        for attempt in read_attempts(folder.attempt(stage, int(number))):
            element = attempt.job.partition("_")[2] or "0"
            found.append(folder.log(attempt.plan, element))
            found.append(folder.rank_log(attempt.plan, number))
            found.append(folder.log(attempt.plan))
    logs = [path for path in found if path.is_file()]
    if not logs:
        evaluations = [Evaluation(folder.run, name).stage for name in launch.evaluations]
        known = ", ".join([*(launch.stages or [launch.command]), *evaluations])
        raise UsageError(
            what=f"no log of partition {partition}",
            where=str(run),
            do=f"name one that was started, as STAGE:NUMBER; stages: {known}",
        )
    return logs
