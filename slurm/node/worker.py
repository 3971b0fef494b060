"""What the jobs of a run do, each with its plan: array elements, and ranks.

    python -P -m dinoforge.slurm.node.worker RUN NAME

An array element does its partitions one after the other: those of a stage, or exported steps of a
training that are to be evaluated. The only element of a stage continues with the next small stages:
each saves two waits in the queue, a curation of CIFAR-10 takes 12 jobs instead of 28.

A rank of a training or an evaluation, started by srun, is a torch-free parent: it sets the
rendezvous variables that torch reads, runs ``dinoforge COMMAND RUN/config.yaml`` and forwards
signals. Rank 0 of a training also has each export that is kept evaluated. SLURM does not restart a
preempted job that exits by itself: when the child has saved and exits with 75, rank 0 requests the
requeue and every rank waits to be killed.

Exit codes: 0 all done; 23 a duplicate of a job that runs already. Of an element: 20 a partition
failed, 21 an error that all elements share, 22 the run or the array was stopped. Of a rank: the
child's own below 64; 70 stopped after starts without progress; 71 the child was killed; 75 to be
restarted, but the requeue failed; 76 another rank is gone.
"""

import contextlib
import functools
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinoforge import stages
from dinoforge.config import config_of, load_config
from dinoforge.config.paths import quote_path
from dinoforge.errors import DinoforgeError, Interrupted, RankLost, UsageError
from dinoforge.log import set_up_logging
from dinoforge.slurm.cluster.commands import SlurmError, ask
from dinoforge.slurm.driver import submit_evaluations
from dinoforge.slurm.outcomes import Outcome, Verdict, classify_exception
from dinoforge.slurm.profile import Profile
from dinoforge.slurm.store.evaluations import Evaluation
from dinoforge.slurm.store.events import AttemptWriter, read_attempts
from dinoforge.slurm.store.layout import DUPLICATE, JobPlan, SlurmFolder, State, last_error
from dinoforge.slurm.store.lease import LeaseBusyError, hold_lease
from dinoforge.steps import reached_step

__all__ = ["main"]

_log = logging.getLogger(__name__)

ALL_DONE, FAILED, SHARED_FAULT, STOPPED = 0, 20, 21, 22
NO_PROGRESS, KILLED = 70, 71

# So many elements that fail alike within so many seconds of their start stop their array.
BURST, BURST_S = 3, 60.0

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
_WATCH_EVERY_S = 5.0


def main(run: Path, name: str) -> int:
    """Run one array element, or one rank."""
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    set_up_logging(rank=rank)
    folder = SlurmFolder(run)
    plan = folder.read_plan(name)
    job = os.environ["SLURM_JOB_ID" if plan.ranks else "SLURM_ARRAY_JOB_ID"]
    if not folder.claim(name, job):
        _log.warning("%s: another job runs this plan; nothing to do", name)
        return DUPLICATE
    if plan.ranks:
        attempt = AttemptWriter(folder.attempt(plan.stage, rank), plan=name, job=job)
        return _Rank(folder, plan, job, rank, attempt).run()
    if (folder.stops / name).exists():
        _log.warning("%s: stopped before this element began", name)
        return STOPPED
    element = _Element(folder, plan, job, int(os.environ["SLURM_ARRAY_TASK_ID"]))
    signal.signal(signal.SIGTERM, lambda number, _frame: element.on_signal(number))
    code = element.run()
    if code == ALL_DONE and plan.pipeline and plan.elements == 1:
        element.run_next_stages()
    return code


@dataclass
class _Element:
    folder: SlurmFolder
    plan: JobPlan
    array: str
    number: int
    attempt: AttemptWriter | None = None  # the last one

    def on_signal(self, number: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Record a signal and go on.

        A preempted job that exits by itself counts as ended; only one that is killed is requeued.
        When the run was cancelled there is nothing to wait for.
        """
        if self.attempt is not None:
            self.attempt.signal(number)
        if self.folder.is_cancelled():
            if child is not None:
                child.kill()
            os._exit(STOPPED)

    def run(self) -> int:
        """Do the partitions of the element; returns its exit code."""
        began, code = time.monotonic(), ALL_DONE
        for index, payload in self.plan.element(self.number):
            outcome = self._partition(index, payload)
            if outcome in {Outcome.SETUP, Outcome.USAGE} and self.plan.pipeline:
                if time.monotonic() - began < BURST_S:
                    self._count_burst(outcome)
                return SHARED_FAULT
            if outcome is not Outcome.DONE:
                code = FAILED
        return code

    def _partition(self, index: int, payload: dict[str, Any]) -> Outcome:
        path = self.folder.attempt(self.plan.stage, index)
        attempt = AttemptWriter(path, plan=self.plan.name, job=f"{self.array}_{self.number}")
        try:
            verdict = self._do(index, payload, attempt)
        except Exception as error:  # noqa: BLE001 - an element records every failure and goes on
            traceback.print_exc()
            text = " ".join(str(error).split())
            if not isinstance(error, DinoforgeError):
                text = f"{type(error).__name__}: {text}"
            verdict = Verdict(classify_exception(error), text)
        if verdict is None:
            return Outcome.DONE
        if verdict.outcome is Outcome.KILLED:  # the driver asks SLURM why
            _log.error("%s %d: %s", self.plan.stage, index, verdict.message)
        else:
            attempt.end(verdict.outcome, verdict.message)
        return verdict.outcome

    def _do(self, index: int, payload: dict[str, Any], attempt: AttemptWriter) -> Verdict | None:
        """Do one partition; None if an earlier start of this element did it."""
        if self.plan.pipeline:
            pipeline, inputs = self._pipeline
            stage = next(stage for stage in pipeline.stages if stage.name == self.plan.stage)
            fingerprint = self.plan.stage_fingerprint
            task = stages.StagePlan(stage, inputs, [], fingerprint).task(index, payload)
            if stages.is_proved(task):
                return None
            self._start(attempt)
            stages.run_task(task)
            return Verdict(Outcome.DONE)
        evaluation = Evaluation(self.folder.run, payload["recipe"])
        if evaluation.is_done(index):
            return None
        self._start(attempt)
        log = self.folder.log(self.plan.name, self.number)
        arguments = evaluation.arguments(index)
        return _run_command(arguments, log, self.on_signal, otherwise=f"see {log}")[1]

    def _start(self, attempt: AttemptWriter) -> None:
        self.attempt = attempt
        attempt.start(memory_gb=self.plan.memory_gb, minutes=self.plan.minutes)

    @functools.cached_property
    def _pipeline(self) -> tuple[stages.Pipeline, stages.Inputs[Any]]:
        # Late: importing the pipeline may fail, which is then recorded.
        pipeline = stages.find_pipeline(self.plan.pipeline)
        config = config_of(pipeline.config, self.plan.config)
        return pipeline, stages.make_inputs(pipeline.name, pipeline.stages, self.folder.run, config)

    def _count_burst(self, outcome: Outcome) -> None:
        """Stop the whole array once `BURST` elements failed alike, early."""
        stop = self.folder.stops / self.plan.name
        folder = stop.with_suffix(".failed")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{outcome}-{self.number}").touch()
        if len(list(folder.glob(f"{outcome}-*"))) < BURST:
            return
        stop.touch()
        try:  # where nodes may not cancel, pending elements end as soon as they start
            ask(["scancel", "--state=PENDING", self.array], timeout_s=30)
        except DinoforgeError as error:
            _log.warning("scancel: %s", error)

    def run_next_stages(self) -> None:
        """Run the next stages of one element as long as they fit into this job.

        It is a head start: nothing is recorded, nothing may fail. The gate behind the element finds
        the markers and goes on from there.
        """
        profile = load_config(Profile, self.folder.profile)
        if not profile.walk_on:
            return
        # No further stage after a quarter of the time limit: what the limit kills is lost.
        latest = time.monotonic() + 0.25 * 60 * self.plan.minutes
        pipeline, inputs = self._pipeline
        reopen = functools.partial(pipeline.reopen, self.folder.run)
        try:
            with hold_lease(self.folder.lease, wait_s=5.0):
                for later, missing in stages.plan_in_order(pipeline.stages, inputs):
                    is_over = time.monotonic() > latest or self.folder.is_cancelled()
                    if missing and (is_over or not self._fits(later, len(missing), profile)):
                        return
                    later.prepare(missing, reopen)
                    for task in missing:
                        stages.run_task(task)
        except LeaseBusyError:
            return  # a driver is at work on the run: it goes on
        except Exception as error:  # noqa: BLE001 - the gate meets it again, where it is reported
            _log.warning("stopped packing stages: %s", error)

    def _fits(self, later: stages.StagePlan, missing: int, profile: Profile) -> bool:
        """Return whether a later stage is one element that requests no more than this one has."""
        device = stages.stage_device(later.stage, later.inputs.whole_config)
        job, plan = profile.job(later.stage.name, device), self.plan
        asked = (job.memory_gb, job.minutes, job.cpus_per_task, job.gpus_per_node)
        given = (plan.memory_gb, plan.minutes, plan.cpus, plan.gpus)
        # A stage of which something is done has a history, which gates read.
        is_one_element = len(later.tasks) == missing <= job.partitions_per_element
        return is_one_element and all(a <= g for a, g in zip(asked, given, strict=True))


@dataclass
class _Rank:
    folder: SlurmFolder
    plan: JobPlan
    job: str
    rank: int
    attempt: AttemptWriter

    def run(self) -> int:
        run, stage = self.folder.run, self.plan.stage
        step = reached_step(run)
        self.attempt.start(memory_gb=self.plan.memory_gb, minutes=self.plan.minutes, step=step)
        profile = load_config(Profile, self.folder.profile)
        if self.rank == 0 and self._starts_in_vain() > profile.max_attempts:
            text = f"no progress beyond step {step} in {profile.max_attempts} starts"
            _log.error("%s", text)
            self._record(Outcome.NO_PROGRESS, text)
            return NO_PROGRESS
        end = threading.Event()
        watch = threading.Thread(target=_watch_exports, args=(self.folder, end), daemon=True)
        if self.rank == 0 and stage == "train" and profile.nodes_may_submit:
            watch.start()
        log = self.folder.log(self.plan.name, f"rank{self.rank}")
        code, verdict = _run_command(
            [stage, str(run / "config.yaml"), f"out={run}"],
            log,
            self._forward,
            # A rank above 0 without an error message ended because of another one, which has it.
            otherwise="" if self.rank else f"see {log}",
            DINOFORGE_JOB=self.job,  # a command that runs in the job may write the run
            **_rendezvous(),
        )
        end.set()
        if watch.is_alive() and code != Interrupted.exit_code:
            watch.join(15.0)  # it may be submitting
        return self._end(code, verdict)

    def _starts_in_vain(self) -> int:
        """Count the last starts of rank 0 from one step, since the last ``retry``."""
        forgiven = {entry.name for entry in self.folder.submissions.read() if entry.forgiven}
        attempts = read_attempts(self.folder.attempt(self.plan.stage, 0))
        steps = [step for a in attempts if a.plan not in forgiven for step in a.steps]
        return len(list(itertools.takewhile(lambda step: step == steps[-1], reversed(steps))))

    def _forward(self, number: int, child: subprocess.Popen[bytes]) -> None:
        self.attempt.signal(number)
        child.send_signal(number)

    def _end(self, code: int, verdict: Verdict) -> int:
        """Record how the child ended, and have it restarted if it asks for that."""
        if code == RankLost.exit_code:
            return code  # the rank that is gone records why, or the driver finds out
        if verdict.outcome is Outcome.KILLED:
            # No end is recorded: the driver asks SLURM why, and gives more memory if that was it.
            _log.error("rank %d: %s", self.rank, verdict.message)
            return KILLED
        if verdict.outcome in {Outcome.USAGE, Outcome.EXCEPTION}:
            if verdict.message:
                self._record(verdict.outcome, f"rank {self.rank}: {verdict.message}")
            return min(code, 63)
        self._record(verdict.outcome, verdict.message)
        if verdict.outcome is Outcome.PREEMPTED and not self.folder.is_cancelled():
            try:
                if self.rank == 0:
                    ask(["scontrol", "requeue", self.job], timeout_s=60, patience_s=90)
                time.sleep(600.0)  # to be killed
            except SlurmError as error:
                _log.warning("scontrol requeue: %s", error)
        return code

    def _record(self, outcome: Outcome, text: str) -> None:
        """Record an end; of one that is final also the state, as the gate may be late."""
        self.attempt.end(outcome, text)
        if self.folder.is_cancelled():
            return
        if outcome in {Outcome.USAGE, Outcome.NO_PROGRESS}:
            stage = self.plan.stage
            do = f"fix the cause, then dinoforge retry {quote_path(self.folder.run)}"
            why = [f"{stage}: {outcome}: {text}"]
            self.folder.write_state(State(state="stopped", stage=stage, why=why, do=do))
        if outcome is Outcome.DONE and self.rank == 0 and not self.folder.read_launch().evaluations:
            self.folder.write_state(State(state="finished"))


def _rendezvous(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Set the variables that torch reads from those of SLURM."""
    nodes = given.get("SLURM_JOB_NODELIST")
    answer = ask(["scontrol", "show", "hostnames", nodes]) if nodes else "localhost"
    # The last lines: a wrapper of the site may print a banner.
    hosts = answer.split()[-int(given.get("SLURM_JOB_NUM_NODES", "1")) :]
    return {
        "RANK": given.get("SLURM_PROCID", "0"),
        "WORLD_SIZE": given.get("SLURM_NTASKS", "1"),
        "LOCAL_RANK": given.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": given.get("SLURM_NTASKS_PER_NODE", "1"),
        "MASTER_ADDR": hosts[0],
        "MASTER_PORT": str(20000 + int(given.get("SLURM_JOB_ID", "0")) % 10000),
    }


def _watch_exports(folder: SlurmFolder, end: threading.Event) -> None:
    """Submit evaluations of new exports until ``end`` is set.

    In a thread, so that signals reach the training at once however long SLURM takes to answer.
    Nothing that goes wrong here disturbs the training: the gate behind it submits what is missing.
    """
    # Signals are for the thread that forwards them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pause, seen, checked = _WATCH_EVERY_S, set[tuple[str, int]](), 0.0
    while not end.wait(pause):
        try:
            missing = {
                (name, step)
                for name in folder.read_launch().evaluations
                for step in Evaluation(folder.run, name).missing()
            }
            waited_s = time.monotonic() - checked
            if missing - seen or (missing and waited_s > 60.0):  # later again those that failed
                with contextlib.suppress(LeaseBusyError):  # its holder may submit the same
                    submit_evaluations(folder.run, wait_s=_WATCH_EVERY_S)
                    seen, checked = missing, time.monotonic()
            pause = _WATCH_EVERY_S
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            pause = min(4 * pause, 900.0)
            _log.warning("no evaluation could be submitted (%s); again in %d s", error, pause)


def _run_command(
    arguments: Sequence[str],
    log: Path,
    on_signal: Callable[[int, subprocess.Popen[bytes]], None],
    *,
    otherwise: str,
    **environment: str,
) -> tuple[int, Verdict]:
    """Run ``dinoforge ARGUMENTS``; returns its exit code, negative for a signal, and how it ended.

    ``on_signal`` gets each signal that arrives here, and the child. The child starts with them
    blocked: one that arrives while it imports waits until it has its handlers, if it ever does. The
    message of the verdict is the error that the child printed into ``log``, or ``otherwise``.
    """
    start = log.stat().st_size if log.is_file() else 0
    # The working folder must not shadow the snapshot.
    variables = os.environ | environment | {"PYTHONSAFEPATH": "1"}
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        child = subprocess.Popen([sys.executable, "-m", "dinoforge", *arguments], env=variables)
        for number in _SIGNALS:
            signal.signal(number, lambda number, _frame: on_signal(number, child))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    code = child.wait()
    if code == 0:
        return code, Verdict(Outcome.DONE)
    if code < 0:
        return code, Verdict(Outcome.KILLED, f"ended by {signal.Signals(-code).name}")
    if code == Interrupted.exit_code:
        return code, Verdict(Outcome.PREEMPTED, "it saved and asks to be restarted")
    outcome = Outcome.USAGE if code == UsageError.exit_code else Outcome.EXCEPTION
    return code, Verdict(outcome, last_error(log, start) or otherwise)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
