"""What an array element runs: its partitions of one plan, one after the other.

    python -P -m dinoforge.slurm.node.worker RUN NAME

Exit codes: 0 all done, 20 a partition failed, 21 set-up or a mistake that all elements share,
22 told not to start, 23 a double of a job that runs already.
"""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dinoforge.config import config_of
from dinoforge.errors import DinoforgeError
from dinoforge.log import set_up_logging
from dinoforge.slurm.cluster.commands import ask
from dinoforge.slurm.failures import Outcome, classify_exception
from dinoforge.slurm.store.attempts import AttemptWriter
from dinoforge.slurm.store.claims import DOUBLE, claim
from dinoforge.slurm.store.layout import SlurmFolder
from dinoforge.slurm.store.plans import ArrayPlan, read_plan
from dinoforge.stages import StagePlan, Task, find_pipeline, is_proved, make_inputs, run_task

__all__ = ["main"]

_log = logging.getLogger(__name__)

ALL_DONE, FAILED, SHARED_FAULT, TOLD_NOT_TO = 0, 20, 21, 22

# So many elements that fail alike within so many seconds of their start: the rest need not try.
BURST = 3
BURST_S = 60.0


@dataclass
class _Now:
    """The attempt that runs, for the signal handler."""

    attempt: AttemptWriter | None = None


def main(words: Sequence[str]) -> int:
    """Run one array element."""
    folder, name = SlurmFolder(Path(words[0])), words[1]
    plan = read_plan(folder.plan(name))
    array = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
    element = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    if not claim(folder, name, array):
        _log.warning("%s: another job runs this plan; nothing to do", name)
        return DOUBLE
    if folder.stop(name).exists():
        _log.warning("%s: stopped before this element began", name)
        return TOLD_NOT_TO
    running = _Now()
    _listen(folder, running)
    code = _Element(folder, plan, f"{array}_{element}", running).run(element)
    if code == ALL_DONE and plan.elements == 1:
        from dinoforge.slurm.walking import walk_on

        walk_on(folder, plan)
    return code


@dataclass
class _Element:
    folder: SlurmFolder
    plan: ArrayPlan
    job: str
    running: _Now
    # made late: importing the pipeline may fail, and an attempt has to tell it
    _make_task: Callable[[int, dict[str, Any]], Task] | None = None

    def run(self, number: int) -> int:
        began, code = time.monotonic(), ALL_DONE
        for index, payload in self.plan.element(number):
            outcome = self._partition(index, payload)
            if outcome in {Outcome.SETUP, Outcome.USAGE}:
                self._count_burst(number, outcome, time.monotonic() - began)
                return SHARED_FAULT
            if outcome is not Outcome.DONE:
                code = FAILED
        return code

    def _partition(self, index: int, payload: dict[str, Any]) -> Outcome:
        """Do one partition, unless an earlier start of this element did it."""
        attempt = AttemptWriter(
            self.folder.attempt(self.plan.stage, index), plan=self.plan.name, job=self.job
        )
        try:
            task = self._task(index, payload)
            if is_proved(task):
                return Outcome.DONE
            self.running.attempt = attempt
            attempt.start(memory_gb=self.plan.memory_gb, minutes=self.plan.minutes)
            run_task(task)
        except Exception as error:  # noqa: BLE001 - an element tells every failure and goes on
            outcome = classify_exception(error)
            traceback.print_exc()
            attempt.end(outcome, _in_a_line(error))
            return outcome
        finally:
            self.running.attempt = None
        attempt.end(Outcome.DONE)
        return Outcome.DONE

    def _task(self, index: int, payload: dict[str, Any]) -> Task:
        if self._make_task is None:
            self._make_task = _task_maker(self.folder, self.plan)
        return self._make_task(index, payload)

    def _count_burst(self, number: int, outcome: Outcome, seconds: float) -> None:
        """Stop the whole array once `BURST` elements failed alike, early."""
        if seconds > BURST_S:
            return
        folder = self.folder.stop(self.plan.name).with_suffix(".failed")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_text(outcome, encoding="ascii")
        alike = [path for path in folder.iterdir() if path.read_text(encoding="ascii") == outcome]
        if len(alike) >= BURST:
            self.folder.stop(self.plan.name).touch()
            _cancel_waiting(self.job)


def _cancel_waiting(job: str) -> None:
    """Take the elements that wait out of the queue; where nodes may not, they end at once."""
    try:
        ask(["scancel", "--state=PENDING", job.partition("_")[0]], timeout_s=30)
    except DinoforgeError as error:
        _log.warning("scancel: %s", error)


def _task_maker(folder: SlurmFolder, plan: ArrayPlan) -> Callable[[int, dict[str, Any]], Task]:
    pipeline = find_pipeline(plan.pipeline)
    stage = next(stage for stage in pipeline.stages if stage.name == plan.stage)
    config: Any = config_of(pipeline.config, plan.config)
    inputs = make_inputs(pipeline.name, pipeline.stages, folder.run, config)
    return StagePlan(stage, inputs, [], plan.stage_fingerprint).task


def _listen(folder: SlurmFolder, running: _Now) -> None:
    """Write signals down and work on: who ends within a grace time is not started again.

    A preempted job that exits by itself counts as ended; one that is killed is requeued. Only when
    the run was cancelled is there nothing to wait for.
    """

    def note(number: int, _frame: FrameType | None) -> None:
        if running.attempt is not None:
            running.attempt.signal(signal.Signals(number).name.removeprefix("SIG"))
        if folder.is_cancelled():
            os._exit(TOLD_NOT_TO)

    signal.signal(signal.SIGTERM, note)


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, DinoforgeError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    set_up_logging()
    sys.exit(main(sys.argv[1:]))
